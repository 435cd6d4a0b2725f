/* cutpower DIR: stops the ext4 of DIR as a power cut would: nothing that was not synced reaches the disk any more, its log included. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>

#define EXT4_IOC_SHUTDOWN _IOR('X', 125, uint32_t)

int main(int argc, char **argv)
{
    int fd = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY) : -1;
    uint32_t without_log_flush = 2;
    if (fd < 0 || ioctl(fd, EXT4_IOC_SHUTDOWN, &without_log_flush) != 0) {
        perror("cutpower");
        return 1;
    }
    return 0;
}
