/* `bottled token create|list|revoke`: the tokens of a state directory, also beside a daemon that
 * runs on it, which heeds a change from its next request on. */
#pragma once

/* argv[0] is "token". Prints; the exit status: 0 done, 1 failed, 2 usage. */
int token_command(int argc, char **argv);
