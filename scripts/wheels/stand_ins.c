/* stand_ins.c - the data of the C library that a static libuv may not reach by itself.
 *
 * Debian compiles its archive for programs, where a name of the C library's data stands
 * for a fixed place. In a shared object it does not, and the linker refuses. So libuv.sh
 * renames those names in its copy of the archive to these. What reads them is uv_spawn(),
 * uv_os_environ() and uv_print_all_handles(), which pyloop never calls; in6addr_any is
 * a constant, the same here as there. */
#include <netinet/in.h>
#include <stdio.h>

extern const struct in6_addr pyloop_static_in6addr_any;
extern char **pyloop_static_environ;
extern FILE *pyloop_static_stderr;

const struct in6_addr pyloop_static_in6addr_any = IN6ADDR_ANY_INIT;
static char *no_environment[] = {NULL};
char **pyloop_static_environ = no_environment;
FILE *pyloop_static_stderr = NULL;
