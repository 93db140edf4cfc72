/* The guest's console: a few plain lines for a person who looks for why a bottle did not come up.
 */
#pragma once

/* Makes descriptors 0, 1 and 2 exist and opens the console. Again after /dev came up. */
void console_open(void);
/* One line, "bottled: " before it. Never blocks: a console that nobody reads loses lines. Holds no
 * text of the plan's command, environment or output. */
void console_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Waits, at most half a second, until the device has taken what was said. */
void console_drain(void);
