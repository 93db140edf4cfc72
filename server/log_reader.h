/* Reading a log that another process writes and rotates: <name>.log is renamed to <name>.log.1, and
 * a new one begun.
 *
 * The folder belongs to the bottle's user and may hold anything: links and whatever else is no
 * plain file are not opened, and nothing here ever waits on a file. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct log_reader;

/* `tail` < 0: from the beginning, else the last `tail` lines. A log that is not there yet is empty.
 * NULL when memory is short. */
struct log_reader *log_reader_new(const char *folder, const char *name, int64_t tail);
void log_reader_free(struct log_reader *reader);
/* Up to `room` bytes of what was there when the reader was made: their number, or 0 at its end. */
ssize_t log_reader_present(struct log_reader *reader, char *out, size_t room);
/* Up to `room` bytes of what is there: their number, or 0 when all was read that has been written
 * so far. Goes on to the new file after a rotation. Use either this or log_reader_present on a
 * reader. */
ssize_t log_reader_follow(struct log_reader *reader, char *out, size_t room);
