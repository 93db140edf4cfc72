/* render FILE < case.json: prints one rendered file, for tests in other languages. With --lines it
 * reads one case a line and answers each with one JSON line: {"text": …} or {"kind": …, "error":
 * …}. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/util.h"
#include "tests/unit/render_case.h"

static json_t *answer(const char *line, size_t length, const char *file)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;
    struct error err = ERROR_INIT;
    CLEANUP_JSON json_t *input = json_parse(line, length, &err);

    if (!input || case_render(input, file, &out, &err) < 0)
        return json_pack("{s:s?, s:s}", "kind", err.kind, "error", err.text);
    return json_pack("{s:s%}", "text", out.data ? out.data : "", out.length);
}

int main(int argc, char **argv)
{
    bool lines = argc == 3 && strcmp(argv[2], "--lines") == 0;
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    int status = 0;

    if (argc != 2 && !lines) {
        (void)fprintf(stderr, "usage: render FILE [--lines] < case.json\n");
        return 2;
    }
    while ((length = getdelim(&line, &room, lines ? '\n' : EOF, stdin)) > 0) {
        CLEANUP_JSON json_t *result = answer(line, (size_t)length, argv[1]);
        const char *text = json_member_string(result, "text");
        CLEANUP_FREE char *encoded = json_text(result);
        if (lines)
            (void)printf("%s\n", encoded ? encoded : "{}");
        else if (text)
            (void)fputs(text, stdout);
        else
            status = 1;
        if (status)
            (void)fprintf(stderr, "%s\n", encoded ? encoded : "out of memory");
    }
    free(line);
    return fflush(stdout) == 0 ? status : 1;
}
