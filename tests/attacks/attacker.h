/* What the attacker's verbs share: each takes its arguments, a NULL at their end, and says what
 * came. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define NIC "eth0"

enum { FRAME_MAX = 65535 };

/* Adds to what is reported. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A decimal or 0x number; 0 for NULL. */
long number(const char *text);
/* Lower-case hex to at most `max` bytes; how many. */
size_t unhex(const char *text, uint8_t *ret, size_t max);

void verb_runts(char **args);
void verb_ports(char **args);
void verb_poke(char **args);
void verb_spew(char **args);
void verb_agent(char **args);
