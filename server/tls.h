/* TLS of the TCP listeners: the certificate and the key that a handshake gets, read anew on SIGHUP.
 *
 * libmicrohttpd asks for them at each handshake, by a callback that it gives no context: so there
 * is one of these in a process. Connections that stand keep what they began with. */
#pragma once

#include <microhttpd.h>
#include <stddef.h>

#include "base/error.h"

/* TLS 1.2 and 1.3, and of GnuTLS's own choice what it offers there. */
#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

struct tls;

/* Reads both files (PEM); they have to fit together, and the key to be readable for nobody but its
 * owner and group. Nothing is kept. */
int tls_check(const char *cert_file, const char *key_file, struct error *err);
/* The one; from then on handshakes get what it read. */
struct tls *tls_new(const char *cert_file, const char *key_file, struct error *err);
/* Reads them again; on a fault what was read before stays. */
int tls_apply(struct tls *tls, const char *cert_file, const char *key_file, struct error *err);
void tls_free(struct tls *tls);
/* For MHD_OPTION_HTTPS_CERT_CALLBACK2. */
void *tls_callback(void);
/* Sends bytes on a connection past libmicrohttpd; what can't be sent now is lost. */
void tls_send(struct MHD_Connection *connection, const void *bytes, size_t length);
