#include "server/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/secret.h"
#include "base/util.h"

enum { CERT_MAX = 256 * 1024, KEY_MAX = 64 * 1024, CHAIN_MAX = 16 };

struct pair {
    char *cert;
    size_t cert_length;
    struct secret key;
};

struct tls {
    pthread_mutex_t lock;
    struct pair pair;
};

static struct tls *the_one;

static void free_pair(struct pair *pair)
{
    free(pair->cert);
    secret_free(&pair->key);
    *pair = (struct pair){0};
}

static int read_key(const char *path, struct secret *ret, struct error *err)
{
    struct stat status;
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

    if (fd < 0 || fstat(fd, &status) < 0)
        return error_errno(err, NULL, "tls_key %s", path);
    if (!S_ISREG(status.st_mode) || status.st_mode & 0027)
        return error_set(err, NULL,
                         "tls_key %s has to be a file that only its owner may write and only its "
                         "owner and group may read (chmod 640)",
                         path);
    if (secret_make(ret, KEY_MAX, err) < 0)
        return error_wrap(err, "tls_key");
    return secret_read(ret, fd, KEY_MAX - 1) < 0 ? error_errno(err, NULL, "tls_key %s", path) : 0;
}

/* Do both parse, and does the key belong to the certificate? */
static int check_pair(const struct pair *pair, const char *cert_file, struct error *err)
{
    const gnutls_datum_t cert = {(unsigned char *)pair->cert, (unsigned)pair->cert_length};
    const gnutls_datum_t key = {pair->key.bytes, (unsigned)pair->key.length};
    gnutls_certificate_credentials_t credentials;
    int result = gnutls_certificate_allocate_credentials(&credentials);

    if (result >= 0) {
        result = gnutls_certificate_set_x509_key_mem(credentials, &cert, &key, GNUTLS_X509_FMT_PEM);
        gnutls_certificate_free_credentials(credentials);
    }
    return result < 0 ? error_set(err, NULL, "tls_cert %s and its tls_key: %s", cert_file,
                                  gnutls_strerror(result))
                      : 0;
}

static int read_pair(const char *cert_file, const char *key_file, struct pair *ret,
                     struct error *err)
{
    *ret = (struct pair){.cert = file_read(cert_file, CERT_MAX, &ret->cert_length, err)};
    if (!ret->cert)
        return error_wrap(err, "tls_cert");
    ret->cert_length = strlen(ret->cert);
    if (read_key(key_file, &ret->key, err) == 0 && check_pair(ret, cert_file, err) == 0)
        return 0;
    free_pair(ret);
    return -1;
}

int tls_check(const char *cert_file, const char *key_file, struct error *err)
{
    struct pair pair;

    if (read_pair(cert_file, key_file, &pair, err) < 0)
        return -1;
    free_pair(&pair);
    return 0;
}

struct tls *tls_new(const char *cert_file, const char *key_file, struct error *err)
{
    struct tls *tls = calloc(1, sizeof *tls);

    if (!tls) {
        error_set(err, NULL, "out of memory");
        return NULL;
    }
    (void)pthread_mutex_init(&tls->lock, NULL);
    if (tls_apply(tls, cert_file, key_file, err) < 0) {
        tls_free(tls);
        return NULL;
    }
    the_one = tls;
    return tls;
}

int tls_apply(struct tls *tls, const char *cert_file, const char *key_file, struct error *err)
{
    struct pair pair, old;

    if (read_pair(cert_file, key_file, &pair, err) < 0)
        return -1;
    (void)pthread_mutex_lock(&tls->lock);
    old = tls->pair;
    tls->pair = pair;
    (void)pthread_mutex_unlock(&tls->lock);
    free_pair(&old);
    return 0;
}

void tls_free(struct tls *tls)
{
    if (!tls)
        return;
    if (the_one == tls)
        the_one = NULL;
    free_pair(&tls->pair);
    (void)pthread_mutex_destroy(&tls->lock);
    free(tls);
}

/* --- Handshakes ----------------------------------------------------------------------------- */

/* Under the lock: copies of both, for one handshake, which releases them. */
static int hand_out(const struct pair *pair, gnutls_pcert_st *certs, unsigned *ret_count,
                    gnutls_privkey_t *ret_key)
{
    const gnutls_datum_t cert = {(unsigned char *)pair->cert, (unsigned)pair->cert_length};
    const gnutls_datum_t key = {pair->key.bytes, (unsigned)pair->key.length};

    *ret_count = CHAIN_MAX;
    int result = gnutls_pcert_list_import_x509_raw(certs, ret_count, &cert, GNUTLS_X509_FMT_PEM, 0);
    if (result < 0)
        return result;
    result = gnutls_privkey_init(ret_key);
    if (result >= 0) {
        result = gnutls_privkey_import_x509_raw(*ret_key, &key, GNUTLS_X509_FMT_PEM, NULL, 0);
        if (result >= 0)
            return 0;
        gnutls_privkey_deinit(*ret_key);
    }
    for (unsigned i = 0; i < *ret_count; i++)
        gnutls_pcert_deinit(&certs[i]);
    return result;
}

static int retrieve(gnutls_session_t session, const struct gnutls_cert_retr_st *info,
                    gnutls_pcert_st **ret_certs, unsigned *ret_count,
                    gnutls_ocsp_data_st **ret_ocsp, unsigned *ret_ocsp_count,
                    gnutls_privkey_t *ret_key, unsigned *ret_flags)
{
    struct tls *tls = the_one;
    gnutls_pcert_st *certs = gnutls_calloc(CHAIN_MAX, sizeof *certs);

    (void)session;
    (void)info;
    if (!tls || !certs) {
        gnutls_free(certs);
        return -1;
    }
    (void)pthread_mutex_lock(&tls->lock);
    int result = hand_out(&tls->pair, certs, ret_count, ret_key);
    (void)pthread_mutex_unlock(&tls->lock);
    if (result < 0) {
        gnutls_free(certs);
        return -1;
    }
    *ret_certs = certs;
    *ret_ocsp = NULL;
    *ret_ocsp_count = 0;
    *ret_flags = GNUTLS_CERT_RETR_DEINIT_ALL;
    return 0;
}

void *tls_callback(void)
{
    return (void *)(intptr_t)retrieve;
}

void tls_send(struct MHD_Connection *connection, const void *bytes, size_t length)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);

    if (info && info->tls_session)
        (void)gnutls_record_send(info->tls_session, bytes, length);
}
