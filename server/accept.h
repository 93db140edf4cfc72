/* Which of the forms that we can give does an Accept header want? (RFC 9110, 12.5.1) */
#pragma once

#include <stddef.h>

/* Index of the wanted one of `offers` ("application/json", …; ours is the order of preference), -1
 * when the header takes none of them. No header, or an empty one, takes all. */
int accept_choose(const char *header, const char *const *offers, size_t n_offers);
