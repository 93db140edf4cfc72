/* A reader holds the file that it reads and, at first, the older one before it. When the file is
 * read to its end and <name>.log is another inode by now, what the writer still put into the old
 * one is read, then comes <name>.log.1 if that is one we have not seen (two rotations or more
 * between two looks: what lay between is gone, and a line says so), then the new <name>.log. */
#include "server/log_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"

enum { FILES_MAX = 2, SCAN_BLOCK = 32 * 1024 };

struct part {
    int fd; /* -1: none */
    ino_t inode;
    off_t offset, size; /* size: when the reader was made */
};

struct log_reader {
    char path[PATH_MAX];          /* of the folder */
    int folder;                   /* -1: it is not there, or was not when it was looked for last */
    char current[64], older[64];  /* file names */
    struct part parts[FILES_MAX]; /* older, then current */
    size_t at;                    /* index of the part being read */
    bool had_older;               /* <name>.log.1 was there at first */
    const char *gap;              /* words to be told before the next bytes, or NULL */
};

static const char gap_words[] =
    "[bottled: the log was rotated faster than it was read; lines may be missing here]\n";

static struct part no_part(void)
{
    return (struct part){.fd = -1};
}

/* A bottle that was never started has none yet. */
static bool find_folder(struct log_reader *reader)
{
    if (reader->folder < 0)
        reader->folder = open(reader->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return reader->folder >= 0;
}

/* Opens a plain file of the folder; fd -1 when there is none. */
static struct part open_part(struct log_reader *reader, const char *name)
{
    struct stat status;
    struct part part = no_part();

    if (!find_folder(reader))
        return part;
    CLEANUP_CLOSE int fd =
        openat(reader->folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || status.st_nlink > 1)
        return part;
    part.inode = status.st_ino;
    part.size = status.st_size;
    part.fd = steal_fd(&fd);
    return part;
}

static void close_part(struct part *part)
{
    cleanup_close(&part->fd);
    *part = no_part();
}

/* Steps back over the last `lines` lines of a part: sets its offset and returns how many lines it
 * had of them. A last line without a line break counts as one. */
static int64_t step_back(struct part *part, int64_t lines)
{
    char block[SCAN_BLOCK];
    off_t end = part->size;
    int64_t found = 0;

    part->offset = part->size;
    if (part->fd < 0 || lines == 0)
        return 0;
    while (end > 0) {
        size_t want = end < SCAN_BLOCK ? (size_t)end : SCAN_BLOCK;
        ssize_t got = pread(part->fd, block, want, end - (off_t)want);
        if (got != (ssize_t)want)
            break;
        for (size_t i = want; i > 0; i--) {
            off_t after = end - (off_t)want + (off_t)i; /* the byte after this one */
            if (block[i - 1] != '\n' || after == part->size)
                continue;
            if (++found == lines) {
                part->offset = after;
                return found;
            }
        }
        end -= (off_t)want;
    }
    part->offset = 0;
    return found + (part->size > 0);
}

static void seek_tail(struct log_reader *reader, int64_t tail)
{
    int64_t found = step_back(&reader->parts[1], tail);

    (void)step_back(&reader->parts[0], tail - found);
}

struct log_reader *log_reader_new(const char *folder, const char *name, int64_t tail)
{
    struct log_reader *reader = calloc(1, sizeof *reader);

    if (!reader)
        return NULL;
    reader->folder = -1;
    (void)snprintf(reader->path, sizeof reader->path, "%s", folder);
    (void)snprintf(reader->current, sizeof reader->current, "%s.log", name);
    (void)snprintf(reader->older, sizeof reader->older, "%s.log.1", name);
    /* The newer first: a rotation between the two shows the same file twice, not a gap. */
    reader->parts[1] = open_part(reader, reader->current);
    reader->parts[0] = open_part(reader, reader->older);
    if (reader->parts[0].fd >= 0 && reader->parts[0].inode == reader->parts[1].inode)
        close_part(&reader->parts[0]);
    reader->had_older = reader->parts[0].fd >= 0;
    if (tail >= 0)
        seek_tail(reader, tail);
    return reader;
}

void log_reader_free(struct log_reader *reader)
{
    if (!reader)
        return;
    for (size_t i = 0; i < FILES_MAX; i++)
        close_part(&reader->parts[i]);
    cleanup_close(&reader->folder);
    free(reader);
}

static ssize_t read_part(struct part *part, char *out, size_t room)
{
    struct stat status;

    if (part->fd < 0)
        return 0;
    ssize_t got = pread(part->fd, out, room, part->offset);
    if (got > 0) {
        part->offset += got;
        return got;
    }
    /* Emptied in place: begin again. */
    if (got == 0 && fstat(part->fd, &status) == 0 && status.st_size < part->offset)
        part->offset = 0;
    return 0;
}

ssize_t log_reader_present(struct log_reader *reader, char *out, size_t room)
{
    for (; reader->at < FILES_MAX; reader->at++) {
        struct part *part = &reader->parts[reader->at];
        off_t left = part->size - part->offset;
        if (part->fd < 0 || left <= 0)
            continue;
        ssize_t got = pread(part->fd, out, left < (off_t)room ? (size_t)left : room, part->offset);
        if (got <= 0)
            continue;
        part->offset += got;
        return got;
    }
    return 0;
}

/* Is <name>.log another file than the one that is being read? Then the next files take the places.
 */
static bool move_on(struct log_reader *reader)
{
    struct part *present = &reader->parts[1];
    struct stat status;

    if (!find_folder(reader) ||
        fstatat(reader->folder, reader->current, &status, AT_SYMLINK_NOFOLLOW) < 0 ||
        (present->fd >= 0 && status.st_ino == present->inode))
        return false;
    struct part newer = open_part(reader, reader->current);
    if (newer.fd < 0)
        return false;
    bool present_was_read = present->fd >= 0;
    bool knows_older = !present_was_read && reader->had_older;
    struct part between = knows_older ? no_part() : open_part(reader, reader->older);
    if (between.fd >= 0 && (between.inode == present->inode || between.inode == newer.inode))
        close_part(&between);
    /* What came into the old file after its end was read and before it was renamed. */
    reader->parts[0] = *present;
    *present = newer;
    reader->at = 0;
    if (between.fd < 0)
        return true;
    /* Three files, two places: the rest of the oldest goes, as it would have in one more rotation.
     */
    close_part(&reader->parts[0]);
    reader->parts[0] = between;
    reader->gap = present_was_read ? gap_words : NULL;
    return true;
}

static ssize_t tell_gap(struct log_reader *reader, char *out, size_t room)
{
    size_t left = strlen(reader->gap), length = left < room ? left : room;

    memcpy(out, reader->gap, length);
    reader->gap = length < left ? reader->gap + length : NULL;
    return (ssize_t)length;
}

ssize_t log_reader_follow(struct log_reader *reader, char *out, size_t room)
{
    do {
        if (reader->gap)
            return tell_gap(reader, out, room);
        for (; reader->at < FILES_MAX; reader->at++) {
            ssize_t got = read_part(&reader->parts[reader->at], out, room);
            if (got > 0)
                return got;
            if (reader->at + 1 == FILES_MAX)
                break; /* the present file: stay with it */
            close_part(&reader->parts[reader->at]);
        }
    } while (move_on(reader));
    return 0;
}
