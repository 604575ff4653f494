/* files.h - which file a descriptor's number stands for. */
#ifndef PYLOOP_BASE_FILES_H
#define PYLOOP_BASE_FILES_H

#include "base/compat.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

/* Equal ids prove little (all of Linux's eventfds have the same one), different ids prove
 * that the number was closed and used again. */
typedef struct {
    dev_t device;
    ino_t inode;
} FileId;

/* 0, or an errno: EBADF for a closed descriptor. */
static inline int
file_identify(int fd, FileId *file)
{
    struct stat status;
    if (fstat(fd, &status) < 0) {
        *file = (FileId){0};
        return errno;
    }
    *file = (FileId){.device = status.st_dev, .inode = status.st_ino};
    return 0;
}

static inline bool
file_equal(const FileId *a, const FileId *b)
{
    return a->device == b->device && a->inode == b->inode;
}

/* Whether the number is closed or another file's by now. False where the kernel does not
 * say: `known` is not set, or one of two calls finds it open. */
static inline bool
file_is_gone(int fd, const FileId *known)
{
    FileId now;
    int err = file_identify(fd, &now);
    if (err != 0) {
        return err == EBADF && fcntl(fd, F_GETFD) < 0;
    }
    return known->inode != 0 && !file_equal(known, &now);
}

#endif
