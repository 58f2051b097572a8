"""What Linux offers a process to shut itself in, each as one call of its own: no privileges are needed. Torch-free.

landlock       no file is opened for writing, made, renamed or removed; no other process is looked into
namespaces     the same for kernels without Landlock: every mount is read-only in a mount namespace of its own
capabilities   root keeps the right to read files, and no other
seccomp        no sockets but pairs of streams, no new processes or programs, no signals, no keys to the kernel, no
               change of owner or mode

Each raises OSError where the system has none of it. All hold for threads that are started later, and none can be taken
back. The numbers of system calls are those of Linux's `arch/x86/entry/syscalls/syscall_64.tbl` and
`include/uapi/asm-generic/unistd.h`; the programs and structures those of `man 2 seccomp`, `landlock`, `mount_setattr`
and `capset`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine → column of `_DENIED`, AUDIT_ARCH."""
_NONE = -1
_CLONE = (56, 220)
_CLONE3 = 435
_IOCTL = (16, 29)
_PRLIMIT = (302, 261)
_THREAD = 0x10000
"""CLONE_THREAD."""
_FORBIDDEN_IOCTLS = (0x5412, 0x541C, 0x8901, 0x8902)
"""TIOCSTI and TIOCLINUX: what they are given is typed into the terminal. FIOSETOWN and SIOCSPGRP: as F_SETOWN."""
_FCNTL = (72, 25)
_FORBIDDEN_FCNTLS = (8, 15)
"""F_SETOWN and F_SETOWN_EX: whoever they name gets a signal, of any kind, when a pipe of this process has news."""
_SOCKETPAIR = (53, 199)
_STREAM = 1
"""SOCK_STREAM, the only pairs that stay within the process: a datagram of another can be sent to any local socket."""
_DENIED: tuple[tuple[int, int], ...] = (
    # sockets: socket, connect, bind
    *((41, 198), (42, 203), (49, 200)),
    # processes and programs: fork, vfork, execve, execveat
    *((57, _NONE), (58, _NONE), (59, 221), (322, 281)),
    # signals: kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_open, pidfd_send_signal, pidfd_getfd
    *((62, 129), (200, 130), (234, 131), (129, 138), (297, 240), (434, 434), (424, 424), (438, 438)),
    # other processes: ptrace, process_vm_readv, process_vm_writev, kcmp, sched_setaffinity, sched_setscheduler,
    # sched_setparam, sched_setattr, setpriority, ioprio_set, migrate_pages, move_pages, process_madvise
    *((101, 117), (310, 270), (311, 271), (312, 272), (203, 122), (144, 119), (142, 118), (314, 274), (141, 140)),
    *((251, 30), (256, 238), (279, 239), (440, 440)),
    # shared memory, semaphores and queues, those of other processes among them, and files in memory, which the limit of
    # memory does not see: shmget, shmat, shmctl, semget, semop, semctl, semtimedop, msgget, msgsnd, msgrcv, msgctl,
    # mq_open, mq_unlink, memfd_create, memfd_secret
    *((29, 194), (30, 196), (31, 195), (64, 190), (65, 193), (66, 191), (220, 192), (68, 186), (69, 189), (70, 188)),
    *((71, 187), (240, 180), (241, 181), (319, 279), (447, 447)),
    # mounts and namespaces: mount, umount2, pivot_root, chroot, unshare, setns, open_tree, move_mount, fsopen,
    # fsconfig, fsmount, fspick, mount_setattr
    *((165, 40), (166, 39), (155, 41), (161, 51), (272, 97), (308, 268), (428, 428), (429, 429), (430, 430)),
    *((431, 431), (432, 432), (433, 433), (442, 442)),
    # the kernel: bpf, perf_event_open, add_key, request_key, keyctl, userfaultfd, io_uring_setup, io_uring_enter,
    # io_uring_register, init_module, finit_module, delete_module, kexec_load, kexec_file_load, reboot, sethostname,
    # setdomainname, settimeofday, clock_settime, clock_adjtime, adjtimex, swapon, swapoff, syslog, acct, quotactl,
    # iopl, ioperm
    *((321, 280), (298, 241), (248, 217), (249, 218), (250, 219), (323, 282), (425, 425), (426, 426), (427, 427)),
    *((175, 105), (313, 273), (176, 106), (246, 104), (320, 294), (169, 142), (170, 161), (171, 162), (164, 170)),
    *((227, 112), (305, 266), (159, 171), (167, 224), (168, 225), (103, 116), (163, 89), (179, 60)),
    *((172, _NONE), (173, _NONE)),
    # what a file is, beside its content: chmod, fchmod, fchmodat, fchmodat2, chown, fchown, lchown, fchownat, utime,
    # utimes, utimensat, futimesat, setxattr, lsetxattr, fsetxattr, removexattr, lremovexattr, fremovexattr, truncate
    *((90, _NONE), (91, 52), (268, 53), (452, 452), (92, _NONE), (93, 55), (94, _NONE), (260, 54), (132, _NONE)),
    *((235, _NONE), (280, 88), (261, _NONE), (188, 5), (189, 6), (190, 7), (197, 14), (198, 15), (199, 16), (76, 45)),
)
"""Numbers on x86-64 and on aarch64."""


def landlock() -> None:
    """Nothing outside may be written or made, by path, but /dev/null; nor looked into, if it is a process."""
    create, add, restrict = 444, 445, 446
    version = _call(create, None, 0, 1)
    writes = 0b1_1111_1111_0010 if version == 1 else 0b11_1111_1111_0010  # WRITE_FILE, REMOVE_*, MAKE_*, then REFER
    writes |= 0b100_0000_0000_0000 if version >= 3 else 0  # TRUNCATE
    ruleset = _call(create, struct.pack("=Q", writes), 8, 0)
    null = os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(add, ruleset, 1, struct.pack("=Qi", writes & 0b100_0000_0000_0010, null), 0)
        _no_new_privileges()
        _call(restrict, ruleset, 0)
    finally:
        os.close(null)
        os.close(ruleset)


def namespaces() -> None:
    """A user and a mount namespace in which everything is mounted read-only. Only while there is one thread."""
    if _LIBC is None:
        raise OSError(errno.ENOSYS, "no namespaces")
    user, group = os.getuid(), os.getgid()
    if _LIBC.unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER | CLONE_NEWNS
        raise _error()
    for file, content in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{file}", "w") as out:
            out.write(content)
    here, recursive, read_only = -100, 0x8000, struct.pack("=4Q", 1, 0, 0, 0)
    _call(442, here, b"/", recursive, read_only, len(read_only))


def capabilities() -> None:
    """Of root's rights keep the one to read every file, if it is there."""
    header = struct.pack("=Ii", 0x20080522, 0)
    numbers = {"x86_64": (125, 126), "aarch64": (90, 91)}.get(platform.machine())
    if numbers is None:
        raise OSError(errno.ENOSYS, "unknown machine")
    found = ctypes.create_string_buffer(24)
    _call(numbers[0], header, found)
    effective, permitted, *_ = struct.unpack("=6I", found.raw)
    read = 1 << 2  # CAP_DAC_READ_SEARCH
    _call(numbers[1], header, struct.pack("=6I", effective & read, permitted & read, 0, 0, 0, 0))


def seccomp() -> None:
    """The filter of system calls; those of `_DENIED` fail with EPERM."""
    machine = _MACHINES.get(platform.machine())
    if _LIBC is None or machine is None:
        raise OSError(errno.ENOSYS, "no filter for this machine")
    program = b"".join(_program(*machine))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    filled = Program(len(program) // 8, program)
    _no_new_privileges()
    if _LIBC.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(filled), 0, 0):
        raise _error()


WALLS: Mapping[str, Callable[[], None]] = MappingProxyType(
    {"landlock": landlock, "namespaces": namespaces, "capabilities": capabilities, "seccomp": seccomp}
)
"""In the order in which they are raised: each forbids what those before it need."""


def _program(column: int, architecture: int) -> list[bytes]:
    """Of the filter, one instruction an entry: (operation, jump if so, jump if not, operand)."""
    load, mask, equal, at_least, any_bit, end = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
    allowed, killed, denied = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM

    def step(code: int, operand: int, then: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("=HBBI", code, then, otherwise, operand)

    def argument(index: int) -> bytes:
        return step(load, 16 + 8 * index)  # its lower half, on machines that have it first

    found = [step(load, 4), step(equal, architecture, 1), step(end, killed), step(load, 0)]
    found += [step(at_least, 0x40000000, 0, 1), step(end, denied)]  # the calls of x32
    for numbers in _DENIED:
        if numbers[column] != _NONE:
            found += [step(equal, numbers[column], 0, 1), step(end, denied)]
    # clone makes threads too, which may be; glibc asks clone3 first, whose flags a filter cannot see.
    found += [step(equal, _CLONE3, 0, 1), step(end, 0x00050000 | errno.ENOSYS)]
    found += [step(equal, _CLONE[column], 0, 4), argument(0), step(any_bit, _THREAD, 0, 1), step(end, allowed)]
    found += [step(end, denied)]
    found += [step(equal, _PRLIMIT[column], 0, 4), argument(0), step(equal, 0, 0, 1), step(end, allowed)]
    found += [step(end, denied)]  # the limits of another process
    found += [step(equal, _SOCKETPAIR[column], 0, 5), argument(1), step(mask, 0xF), step(equal, _STREAM, 0, 1)]
    found += [step(end, allowed), step(end, denied)]
    for number, forbidden in ((_IOCTL[column], _FORBIDDEN_IOCTLS), (_FCNTL[column], _FORBIDDEN_FCNTLS)):
        found += [step(equal, number, 0, len(forbidden) + 3), argument(1)]
        found += [step(equal, value, len(forbidden) - place) for place, value in enumerate(forbidden)]
        found += [step(end, allowed), step(end, denied)]
    return [*found, step(end, allowed)]


def _no_new_privileges() -> None:
    """What the kernel wants before it takes rules from a process without rights."""
    if _LIBC is not None and _LIBC.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise _error()


def _call(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """A system call by its number; OSError as it says."""
    if _LIBC is None:
        raise OSError(errno.ENOSYS, "not Linux")
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = _LIBC.syscall(ctypes.c_long(number), *given)
    if result < 0:
        raise _error()
    return result


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
