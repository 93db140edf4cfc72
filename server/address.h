/* Internet addresses as text: "127.0.0.1:8080", "[::1]:8080". */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

enum { ADDRESS_SIZE = 64 };

/* Reads "ADDR:PORT" ("localhost" is 127.0.0.1; no other names). Its length, or 0 for anything else.
 */
socklen_t address_parse(const char *text, union address *ret);
/* Writes it so that address_parse() reads the same; an IPv4 address inside an IPv6 one as IPv4. ""
 * for another family. */
void address_format(const union address *address, char ret[ADDRESS_SIZE]);
bool address_is_loopback(const union address *address);
unsigned address_port(const union address *address);
/* Our end of a connection or listener, and the other one; -1 when it is none of TCP. */
int address_local(int fd, union address *ret);
int address_peer(int fd, union address *ret);
