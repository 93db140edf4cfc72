/* A launch spec that is good, for the tests that break it (shim/spec.h). */
#pragma once

static const char good_spec[] =
    "{\"slug\":\"unit\",\"run_dir\":\"/r\",\"log_dir\":\"/"
    "l\",\"log_bytes\":65536,\"uid\":7,\"gid\":7,"
    "\"daemon_uid\":0,\"kvm_gid\":-1,\"token\":\"secret\",\"boot_timeout_ms\":1000,"
    "\"sidecar_timeout_ms\":1000,\"bwrap\":\"/usr/bin/bwrap\","
    "\"resources\":{\"vm_mib\":256,\"vm_overhead_mib\":64,\"gvproxy_mib\":100,"
    "\"sidecar_mib\":200,\"shim_mib\":0,\"pids\":300},"
    "\"gvproxy\":{\"binary\":\"/g\",\"config\":\"/c\",\"cell\":\"/h\",\"dynamic\":false},"
    "\"forwards\":[{\"sidecar\":\"pipelock\",\"gateway_port\":8888,"
    "\"host\":\"127.0.0.1\",\"host_port\":20001}],"
    "\"rules\":[\"*.example.org:8443\",{\"host\":\"Inner.example.\",\"private\":true}],"
    "\"sidecars\":[{\"name\":\"pipelock\",\"argv\":[\"/usr/sbin/"
    "squid\"],\"env\":{\"LISTEN\":\"x\"},"
    "\"binds\":[[\"/a\",\"/b\"]],\"host\":\"127.0.0.1\",\"host_port\":20001}],"
    "\"vm\":{\"name\":\"qemu\",\"argv\":[\"/usr/bin/qemu\",\"-M\",\"microvm\"],\"binds\":[[\"/"
    "k\",\"/vm/kernel\"]],"
    "\"dev_kvm\":false,\"agent_fd\":5},"
    "\"guest\":{\"hostname\":\"h\",\"address\":\"192.168.50.2/24\",\"gateway\":\"192.168.50.1\","
    "\"mac\":\"5a:94:ef:00:00:32\",\"workdir\":\"/\",\"user\":\"\","
    "\"command\":[\"sh\",\"-c\",\"exit 7\"],\"env\":[[\"A\",\"1\"],[\"B\",\"a\\nb \"]]}}";
