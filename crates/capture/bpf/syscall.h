/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The buffer of the system call that the current thread is in, found in its registers. Whatever the call, its
 * bytes are gathered into one stretch.
 */
#pragma once

#if defined(__TARGET_ARCH_x86)
enum {
    NR_read = 0,
    NR_write = 1,
    NR_readv = 19,
    NR_writev = 20,
    NR_sendfile = 40,
    NR_sendto = 44,
    NR_recvfrom = 45,
    NR_sendmsg = 46,
    NR_recvmsg = 47,
    NR_splice = 275,
    NR_recvmmsg = 299,
    NR_sendmmsg = 307,
    NR_preadv2 = 327,
    NR_pwritev2 = 328,
};
#define CALL_NUMBER(regs) ((int)(regs)->orig_ax)
#define CALL_FIRST(regs) ((regs)->di)
#define CALL_SECOND(regs) ((regs)->si)
#define CALL_THIRD(regs) ((regs)->dx)
#define CALL_FOURTH(regs) ((regs)->r10)
#define TS_COMPAT 2
#elif defined(__TARGET_ARCH_arm64)
enum {
    NR_read = 63,
    NR_write = 64,
    NR_readv = 65,
    NR_writev = 66,
    NR_sendfile = 71,
    NR_splice = 76,
    NR_sendto = 206,
    NR_recvfrom = 207,
    NR_sendmsg = 211,
    NR_recvmsg = 212,
    NR_recvmmsg = 243,
    NR_sendmmsg = 269,
    NR_preadv2 = 286,
    NR_pwritev2 = 287,
};
#define CALL_NUMBER(regs) ((regs)->syscallno)
#define CALL_FIRST(regs) ((regs)->orig_x0)
#define CALL_SECOND(regs) ((regs)->user_regs.regs[1])
#define CALL_THIRD(regs) ((regs)->user_regs.regs[2])
#define CALL_FOURTH(regs) ((regs)->user_regs.regs[3])
#define TIF_32BIT 22
#endif

/* As user space lays them out. */
struct user_iovec {
    __u64 base;
    __u64 length;
};

struct user_message {
    __u64 name;
    __u64 name_length;
    __u64 vectors;
    __u64 vector_count;
    __u64 control;
    __u64 control_length;
    __u64 flags;
};

struct user_messages {
    struct user_message message;
    __u64 length; /* 32 bits, written by the kernel when the next message begins */
};

/* Where the bytes of one call, or of one of its messages, stand. */
struct user_buffer {
    __u64 vectors; /* address of an array of vectors; 0: it is one piece of memory, `base` */
    __u64 count;
    __u64 base;
    __u32 most;    /* bytes moved that may stand in it */
    bool messages; /* one of several */
};

/* The message a thread is at in sendmmsg or recvmmsg, which the kernel does not tell. */
struct message_place {
    __u64 array;
    __u32 index;
    __s32 length; /* of the message before */
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, __u64); /* thread */
    __type(value, struct message_place);
    __uint(max_entries, 4096);
} socket_messages SEC(".maps");

static __always_inline bool is_compat(struct task_struct *task) {
#if defined(__TARGET_ARCH_x86)
    return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
#else
    return BPF_CORE_READ(task, thread_info.flags) >> TIF_32BIT & 1;
#endif
}

/*
 * The address of the message that was just moved. A thread is at the next one where the kernel has written
 * the length of the one before; else it has begun anew.
 */
__noinline __u64 current_message(__u64 array, __u64 count, __s32 length) {
    __u64 thread = bpf_get_current_pid_tgid();
    struct message_place *place = bpf_map_lookup_elem(&socket_messages, &thread);
    struct message_place next = {.array = array, .length = length};

    if (place && place->array == array && place->index + 1 < count && place->index < 1023) {
        __s32 written = 0;
        __u64 before = array + place->index * sizeof(struct user_messages);
        bpf_probe_read_user(&written, sizeof(written),
                            (void *)(before + __builtin_offsetof(struct user_messages, length)));
        if (written == place->length)
            next.index = place->index + 1;
    }
    bpf_map_update_elem(&socket_messages, &thread, &next, BPF_ANY);
    return array + next.index * sizeof(struct user_messages);
}

/* The call failed, and with it ends the array's way. */
static __always_inline void forget_message(void) {
    __u64 thread = bpf_get_current_pid_tgid();
    bpf_map_delete_elem(&socket_messages, &thread);
}

static __always_inline bool message_buffer(struct user_buffer *buffer, __u64 address) {
    struct user_message message;

    if (bpf_probe_read_user(&message, sizeof(message), (void *)address))
        return false;
    buffer->vectors = message.vectors;
    buffer->count = message.vector_count;
    return message.vectors != 0;
}

/* False: the call has no buffer, or it cannot be found. */
static __always_inline bool find_buffer(struct user_buffer *buffer, struct pt_regs *regs, __s32 length,
                                        bool one_by_one) {
    __u64 second = CALL_SECOND(regs);

    buffer->vectors = 0;
    buffer->count = 0;
    buffer->base = 0;
    buffer->most = length;
    buffer->messages = false;
    switch (CALL_NUMBER(regs)) {
    case NR_read:
    case NR_write:
    case NR_sendto:
    case NR_recvfrom:
        buffer->base = second;
        return second != 0;
    case NR_readv:
    case NR_writev:
    case NR_preadv2:
    case NR_pwritev2:
        buffer->vectors = second;
        buffer->count = CALL_THIRD(regs);
        return second != 0;
    case NR_sendmsg:
    case NR_recvmsg:
        return message_buffer(buffer, second);
    case NR_sendmmsg:
    case NR_recvmmsg:
        buffer->messages = true;
        if (one_by_one)
            return message_buffer(buffer, current_message(second, CALL_THIRD(regs), length));
        /* All of them at once: the first is looked into. */
        bpf_probe_read_user(&buffer->most, sizeof(buffer->most),
                            (void *)(second + __builtin_offsetof(struct user_messages, length)));
        return message_buffer(buffer, second);
    default:
        return false;
    }
}

#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define FD_MAX (1 << 20)

/* The socket that a descriptor of the current process names; null where it is something else. */
static __always_inline struct sock *socket_of(__s64 number) {
    struct task_struct *task = (void *)bpf_get_current_task();
    struct fdtable *table = BPF_CORE_READ(task, files, fdt);
    struct file **files = BPF_CORE_READ(table, fd);
    struct file *file = 0;

    if (number < 0 || number >= FD_MAX || number >= BPF_CORE_READ(table, max_fds))
        return 0;
    bpf_probe_read_kernel(&file, sizeof(file), files + number);
    if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
        return 0;
    struct socket *socket = BPF_CORE_READ(file, private_data);
    return BPF_CORE_READ(socket, sk);
}
