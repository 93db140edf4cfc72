/* Is this network namespace one that nothing leaves?
 *
 * bottle-cell asks before it becomes gvproxy: the cell's promise hangs on it, so it is looked at
 * from the inside, once more, by the kernel's own tables. */
#pragma once

#include <linux/netlink.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* Does a message of a link or route dump (rtnetlink(7)) show a way out? Such is a link that is up
 * and is not the loopback device, and a route that leads to anything but that device and its own
 * addresses (127.0.0.0/8, ::1). `ret` then says which. A link that is down leads nowhere, and
 * nobody in a cell may bring one up; some kernels put such links into every namespace. */
bool lonely_message_leads_out(const struct nlmsghdr *message, char *ret, size_t size);
/* 0 when only loopback is there; -1 with the words for the first way out, or for why it could not
 * be found out. */
int lonely_check(struct error *err);
