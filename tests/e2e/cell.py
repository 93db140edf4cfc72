"""The network of a bottle's cell from within, where its gvproxy dials: 127.0.0.1:<gateway port> there is the relay."""
import concurrent.futures
import ctypes
import os
import socket

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def socket_in(pid):
    """A TCP socket on the network of that process. Only its maker has to be there: a thread, which ends with it. As root."""

    def make():
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(fd, CLONE_NEWNET) < 0:
                raise OSError(ctypes.get_errno(), f"setns to the network of {pid}")
        finally:
            os.close(fd)
        return socket.socket()

    with concurrent.futures.ThreadPoolExecutor(1) as one:
        return one.submit(make).result()


def relay_of(daemon, gateway_port=8888):
    """dial() → a new connection to the relay of the one bottle of `daemon`, on its port for that forward."""
    (gvproxy,) = [process.pid for process in daemon.processes_named("gvproxy") if process.program == "gvproxy"]

    def dial(timeout=20):
        sock = socket_in(gvproxy)
        try:
            sock.settimeout(timeout)
            sock.connect(("127.0.0.1", gateway_port))
        except OSError:
            sock.close()
            raise
        return sock

    return dial
