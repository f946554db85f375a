/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The ioctl interface of /dev/hpkv, a key-value store in the kernel.
 *
 * This file is the only source of the interface: the kernel module and the
 * Rust client take their types from it.
 *
 * Conventions
 * -----------
 * - Pointers and lengths travel as fixed-width integers. Every structure has
 *   the same layout for 32-bit and 64-bit callers.
 * - The kernel dispatches on the number of the command alone and takes the
 *   size of the caller's structure from the command word. A caller with a
 *   shorter (older) structure gets zeros for the fields it does not know; a
 *   caller with a longer (newer) one is served as long as the tail that this
 *   kernel does not know is zero, else E2BIG.
 * - Fields named reserved must be zero, else EINVAL. Unknown flags: EINVAL.
 * - Keys are 1 to HPKV_KEY_LEN_MAX bytes, values 0 to HPKV_VALUE_LEN_MAX
 *   bytes; both may hold any bytes.
 * - Every change of the store has a version: a number that only grows, and
 *   that no two commits share. Versions are never 0.
 *
 * Errors that every command may give
 * ----------------------------------
 *   EFAULT   a pointer of the caller cannot be read or written
 *   EINVAL   unknown flag, reserved field not zero, key length out of range,
 *            or flags that exclude each other
 *   E2BIG    the structure has a non-zero tail this kernel does not know
 *   ENOTTY   unknown command
 *   EBADF    a command that changes the store on a file not open for writing,
 *            or one that reads it on a file not open for reading
 *   ENOMEM   no memory; nothing was changed
 *   EIO      the device failed
 */
#ifndef _UAPI_LINUX_HPKV_H
#define _UAPI_LINUX_HPKV_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define HPKV_ABI_VERSION	1

#define HPKV_KEY_LEN_MAX	1024
#define HPKV_VALUE_LEN_MAX	1048576

/* The magic is free in Documentation/userspace-api/ioctl/ioctl-number.rst. */
#define HPKV_IOC_MAGIC		0xB9

/* Numbers of the commands; enumerators, because generators drop _IOWR macros. */
enum hpkv_command {
	HPKV_NR_VERSION = 0x00,
	HPKV_NR_GET = 0x01,
	HPKV_NR_PUT = 0x02,
	HPKV_NR_DELETE = 0x03,
	HPKV_NR_UPDATE = 0x04,
	HPKV_NR_SCAN = 0x05,
	HPKV_NR_STAT = 0x06,
	HPKV_NR_SYNC = 0x07,
	HPKV_NR_PURGE = 0x08,
};

/**
 * struct hpkv_version - what this kernel speaks
 * @abi_version: out, HPKV_ABI_VERSION of the running module
 * @reserved: zero
 * @key_len_max: out, longest key in bytes
 * @value_len_max: out, longest value in bytes
 */
struct hpkv_version {
	__u32 abi_version;
	__u32 reserved;
	__u32 key_len_max;
	__u32 value_len_max;
};

/**
 * struct hpkv_get - read one value
 * @key: pointer to the key
 * @key_len: bytes at @key
 * @flags: zero
 * @value: pointer to the buffer for the value; may be 0 if @value_cap is 0
 * @value_cap: bytes of room at @value
 * @value_len: out, length of the whole value, also with ERANGE
 * @version: out, version of the value
 * @expires_ms: out, when the value ends: milliseconds since the epoch by the
 *	wall clock, 0 = never
 * @user_flags: out, the number stored beside the value
 * @reserved: zero
 *
 * ENOENT: no such key. ERANGE: the value is longer than @value_cap; nothing
 * was copied to @value, and @value_len tells how much room it takes.
 */
struct hpkv_get {
	__aligned_u64 key;
	__u32 key_len;
	__u32 flags;
	__aligned_u64 value;
	__u32 value_cap;
	__u32 value_len;
	__aligned_u64 version;
	__aligned_u64 expires_ms;
	__u32 user_flags;
	__u32 reserved;
};

/* Flags of the commands that change a key. */
enum hpkv_write_flags {
	/* PUT: only if the key does not exist, else EEXIST */
	HPKV_WRITE_CREATE = 1 << 0,
	/* PUT, UPDATE: only if the key exists, else ENOENT */
	HPKV_WRITE_REPLACE = 1 << 1,
	/* only if the key's version is expected_version, else ECANCELED (ENOENT
	 * if there is no such key); not together with HPKV_WRITE_CREATE */
	HPKV_WRITE_IF_VERSION = 1 << 2,
	/* return only when the change is on stable storage */
	HPKV_WRITE_SYNC = 1 << 3,
	/* UPDATE: at the end of the value; offset must be 0 */
	HPKV_WRITE_APPEND = 1 << 4,
};

/**
 * struct hpkv_put - store a value
 * @key: pointer to the key
 * @key_len: bytes at @key
 * @flags: CREATE or REPLACE, IF_VERSION, SYNC
 * @value: pointer to the value; may be 0 if @value_len is 0
 * @value_len: bytes at @value
 * @user_flags: a number to store beside the value
 * @expires_ms: when the value ends, milliseconds since the epoch by the wall
 *	clock; 0 = never
 * @expected_version: with IF_VERSION, the version the key must have
 * @version: out, version of the new value
 *
 * EEXIST, ENOENT, ECANCELED: the condition does not hold. EFBIG: the value is
 * longer than HPKV_VALUE_LEN_MAX or than the device can hold in one piece.
 * ENOSPC: the store is full. EROFS: the store is read-only (its device failed
 * or is read-only). EINTR: a signal came while waiting for room in the write
 * buffer; nothing was changed. EIO with SYNC: the device failed; the change is
 * visible until the module is unloaded, but not on stable storage.
 */
struct hpkv_put {
	__aligned_u64 key;
	__u32 key_len;
	__u32 flags;
	__aligned_u64 value;
	__u32 value_len;
	__u32 user_flags;
	__aligned_u64 expires_ms;
	__aligned_u64 expected_version;
	__aligned_u64 version;
};

/**
 * struct hpkv_delete - remove a key
 * @key: pointer to the key
 * @key_len: bytes at @key
 * @flags: IF_VERSION, SYNC
 * @expected_version: with IF_VERSION, the version the key must have
 * @version: out, version of the removal
 *
 * ENOENT: no such key. Others as for PUT, but never ENOSPC: a full store can
 * be emptied.
 */
struct hpkv_delete {
	__aligned_u64 key;
	__u32 key_len;
	__u32 flags;
	__aligned_u64 expected_version;
	__aligned_u64 version;
};

/**
 * struct hpkv_update - change a part of a value
 * @key: pointer to the key
 * @key_len: bytes at @key
 * @flags: APPEND or not, REPLACE, IF_VERSION, SYNC
 * @data: pointer to the bytes; may be 0 if @data_len is 0
 * @data_len: bytes at @data
 * @reserved: zero
 * @offset: where the bytes go, counted from the start of the value; a gap
 *	between its end and @offset is filled with zero bytes
 * @expected_version: with IF_VERSION, the version the key must have
 * @version: out, version of the new value
 * @value_len: out, length of the new value
 * @reserved2: zero
 *
 * A key that does not exist counts as an empty value, unless REPLACE or
 * IF_VERSION is given (ENOENT). User flags and expiry stay as they are. EFBIG:
 * the result would be longer than HPKV_VALUE_LEN_MAX. Others as for PUT.
 */
struct hpkv_update {
	__aligned_u64 key;
	__u32 key_len;
	__u32 flags;
	__aligned_u64 data;
	__u32 data_len;
	__u32 reserved;
	__aligned_u64 offset;
	__aligned_u64 expected_version;
	__aligned_u64 version;
	__u32 value_len;
	__u32 reserved2;
};

enum hpkv_scan_flags {
	/* begin after @start, not at it */
	HPKV_SCAN_AFTER = 1 << 0,
	/* entries without their values (value_len is still told) */
	HPKV_SCAN_KEYS_ONLY = 1 << 1,
};

/**
 * struct hpkv_scan - read keys in ascending order of their bytes
 * @start: pointer to the first key
 * @start_len: bytes at @start, 0 = from the first key of the store
 * @flags: AFTER, KEYS_ONLY
 * @end: pointer to the key to stop before
 * @end_len: bytes at @end, 0 = to the last key of the store
 * @limit: most entries to return, 0 = as many as fit
 * @buffer: pointer to the room for entries
 * @buffer_len: bytes of room
 * @count: out, entries in the buffer
 * @cursor: in, 0 at the beginning of a scan, then what the last call
 *	returned; out, names the database that was read
 * @used_len: out, bytes of the buffer in use; with ERANGE, room that the next
 *	entry takes
 * @more: out, 1 if there may be more entries after the last one, else 0
 *
 * To go on, call again with @start set to the last key of the buffer, the flag
 * AFTER, and @cursor as returned. ESTALE: another database has been made
 * active, or this one was purged, since the scan began. ERANGE: not even one
 * entry fits in the buffer.
 */
struct hpkv_scan {
	__aligned_u64 start;
	__u32 start_len;
	__u32 flags;
	__aligned_u64 end;
	__u32 end_len;
	__u32 limit;
	__aligned_u64 buffer;
	__u32 buffer_len;
	__u32 count;
	__aligned_u64 cursor;
	__u32 used_len;
	__u32 more;
};

/**
 * struct hpkv_scan_entry - one entry in the buffer of a scan
 * @entry_len: bytes from the start of this entry to the start of the next, a
 *	multiple of 8
 * @key_len: bytes of the key, which follows this header
 * @value_len: bytes of the value, which follows the key unless KEYS_ONLY
 * @user_flags: the number stored beside the value
 * @version: version of the value
 * @expires_ms: when the value ends, 0 = never
 */
struct hpkv_scan_entry {
	__u32 entry_len;
	__u32 key_len;
	__u32 value_len;
	__u32 user_flags;
	__aligned_u64 version;
	__aligned_u64 expires_ms;
};

enum hpkv_stat_state {
	/* there is a device behind the store */
	HPKV_STATE_PERSISTENT = 1 << 0,
	/* the store takes no changes */
	HPKV_STATE_READ_ONLY = 1 << 1,
	/* the device failed */
	HPKV_STATE_FAILED = 1 << 2,
};

/**
 * struct hpkv_stat - figures of the active database; all fields but
 *	@flags are out
 * @flags: zero
 * @state: HPKV_STATE_*
 * @records: keys in the store
 * @key_bytes: bytes of their keys
 * @value_bytes: bytes of their values
 * @device_bytes: size of the device, 0 without one
 * @used_bytes: bytes of the device that hold something live
 * @capacity_bytes: bytes of records that the device can hold, 0 = no limit
 * @live_sectors: units of 4096 bytes that hold something live
 * @free_sectors: units of 4096 bytes in segments that are free
 * @version: version of the newest commit
 * @durable_version: every commit up to this one is on stable storage
 * @gets: lookups
 * @hits: lookups that found their key
 * @puts: values stored, updates included
 * @deletes: keys removed
 * @scans: scans
 * @flushes: flushes of the device
 * @frames: log frames written
 * @written_bytes: bytes written to the device
 * @payload_bytes: bytes of records written to the device for their first time
 * @relocated_bytes: bytes of records written again by compaction
 * @compactions: segments emptied by compaction
 * @pending_bytes: bytes that wait in the write buffer
 * @errors: failed reads, writes and flushes of the device
 * @clients: clients connected over TCP
 */
struct hpkv_stat {
	__u32 flags;
	__u32 state;
	__aligned_u64 records;
	__aligned_u64 key_bytes;
	__aligned_u64 value_bytes;
	__aligned_u64 device_bytes;
	__aligned_u64 used_bytes;
	__aligned_u64 capacity_bytes;
	__aligned_u64 live_sectors;
	__aligned_u64 free_sectors;
	__aligned_u64 version;
	__aligned_u64 durable_version;
	__aligned_u64 gets;
	__aligned_u64 hits;
	__aligned_u64 puts;
	__aligned_u64 deletes;
	__aligned_u64 scans;
	__aligned_u64 flushes;
	__aligned_u64 frames;
	__aligned_u64 written_bytes;
	__aligned_u64 payload_bytes;
	__aligned_u64 relocated_bytes;
	__aligned_u64 compactions;
	__aligned_u64 pending_bytes;
	__aligned_u64 errors;
	__aligned_u64 clients;
};

/**
 * struct hpkv_sync - wait until every change made before is on stable storage
 * @flags: zero
 * @reserved: zero
 * @version: out, every commit up to this one is on stable storage
 *
 * A store without a device returns at once.
 */
struct hpkv_sync {
	__u32 flags;
	__u32 reserved;
	__aligned_u64 version;
};

/**
 * struct hpkv_purge - remove everything, for good
 * @flags: zero
 * @reserved: zero
 *
 * Returns when the empty store is on stable storage. EPERM: the caller lacks
 * CAP_SYS_ADMIN.
 */
struct hpkv_purge {
	__u32 flags;
	__u32 reserved;
};

#define HPKV_IOC_VERSION _IOWR(HPKV_IOC_MAGIC, HPKV_NR_VERSION, struct hpkv_version)
#define HPKV_IOC_GET	_IOWR(HPKV_IOC_MAGIC, HPKV_NR_GET, struct hpkv_get)
#define HPKV_IOC_PUT	_IOWR(HPKV_IOC_MAGIC, HPKV_NR_PUT, struct hpkv_put)
#define HPKV_IOC_DELETE	_IOWR(HPKV_IOC_MAGIC, HPKV_NR_DELETE, struct hpkv_delete)
#define HPKV_IOC_UPDATE	_IOWR(HPKV_IOC_MAGIC, HPKV_NR_UPDATE, struct hpkv_update)
#define HPKV_IOC_SCAN	_IOWR(HPKV_IOC_MAGIC, HPKV_NR_SCAN, struct hpkv_scan)
#define HPKV_IOC_STAT	_IOWR(HPKV_IOC_MAGIC, HPKV_NR_STAT, struct hpkv_stat)
#define HPKV_IOC_SYNC	_IOWR(HPKV_IOC_MAGIC, HPKV_NR_SYNC, struct hpkv_sync)
#define HPKV_IOC_PURGE	_IOWR(HPKV_IOC_MAGIC, HPKV_NR_PURGE, struct hpkv_purge)

#endif /* _UAPI_LINUX_HPKV_H */
