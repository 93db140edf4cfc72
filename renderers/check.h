/* What may be written into a file that a program parses: the last check before text leaves a
 * renderer.
 *
 * api/ has refused bad input long before, with pointers into the request. These answer only yes or
 * no, so that a value that came by another way (an old row, a new caller) stops the rendering
 * rather than breaks out of a file's syntax. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* "192.168.50.1": four decimal numbers, nothing else. */
bool check_ipv4(const char *text);
/* An address of loopback_format(). */
bool check_loopback(const char *text);
/* "192.168.50.0/24". */
bool check_ipv4_subnet(const char *text);
/* "5a:94:ef:00:00:01": lower case, since gvproxy compares MACs as text. */
bool check_mac(const char *text);
/* A DNS name in lower case: labels of [a-z0-9_-] up to 63, 253 in all, no trailing dot, and not one
 * that resolvers read as a number (last label of digits or 0x…, as in "127.1"). */
bool check_host_name(const char *text);
/* An IPv4 address, or an IPv6 address as inet_ntop() writes it (lower case, shortest form, no
 * brackets): the form that proxies compare with. */
bool check_ip_literal(const char *text);
/* An absolute path of [A-Za-z0-9._/+-]: no option separators, no white space. */
bool check_jail_path(const char *text);
/* Well-formed UTF-8 (RFC 3629: no overlong forms, no surrogates). */
bool check_utf8(const char *text);
/* Length in bytes of the UTF-8 sequence at `text` and its code point; 0 when malformed or at the
 * end. */
size_t utf8_decode(const char *text, unsigned *ret_point);
