// SPDX-License-Identifier: GPL-2.0
/*
 * What C can say and the Rust bindings cannot: static inline functions of kernel headers, macros,
 * and fields of structures that are opaque to bindgen. Nothing here decides anything.
 *
 * Each prototype stands twice: here, where the compiler checks the definition against it, and in
 * the `extern "C"` blocks under src/sys/kernel/, which must say the same.
 */

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/highmem.h>
#include <linux/in.h>
#include <linux/mm.h>
#include <linux/net.h>
#include <linux/nsproxy.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/tcp.h>
#include <net/sock.h>

/* ---- memory ---- */

void *hpkv_kvzalloc(size_t size, size_t align);

/* Zeroed memory of any size, for kvfree(). May sleep; returns NULL when there is none. */
void *hpkv_kvzalloc(size_t size, size_t align)
{
	return kvmalloc_node_align(size, align, GFP_KERNEL | __GFP_ZERO, NUMA_NO_NODE);
}

/* ---- scheduler ---- */

void hpkv_cond_resched(void);

void hpkv_cond_resched(void)
{
	cond_resched();
}

/* ---- block devices ---- */

u64 hpkv_bdev_len_bytes(struct block_device *bdev);
u32 hpkv_bdev_sector_bytes(struct block_device *bdev);
bool hpkv_bdev_read_only(struct block_device *bdev);
struct bio *hpkv_bio_alloc(struct block_device *bdev, unsigned short vecs, bool write);
bool hpkv_bio_add_virt(struct bio *bio, void *addr, unsigned int len);
void hpkv_buffer_to_device(void *addr, int len);
void hpkv_buffer_from_device(void *addr, int len);

u64 hpkv_bdev_len_bytes(struct block_device *bdev)
{
	return bdev_nr_bytes(bdev);
}

u32 hpkv_bdev_sector_bytes(struct block_device *bdev)
{
	return bdev_logical_block_size(bdev);
}

bool hpkv_bdev_read_only(struct block_device *bdev)
{
	return bdev_read_only(bdev);
}

/*
 * A bio from the general pool, which never runs dry for a caller that submits each one before it
 * asks for the next. Somebody waits for every one of ours, hence REQ_SYNC, and for no other to
 * follow it, hence REQ_IDLE: the flags of direct I/O.
 */
struct bio *hpkv_bio_alloc(struct block_device *bdev, unsigned short vecs, bool write)
{
	blk_opf_t opf = write ? REQ_OP_WRITE | REQ_SYNC | REQ_IDLE : REQ_OP_READ;

	return bio_alloc(bdev, vecs, opf, GFP_NOIO);
}

/* Adds kernel memory that lies within one page; false when the bio is full. */
bool hpkv_bio_add_virt(struct bio *bio, void *addr, unsigned int len)
{
	struct page *page = is_vmalloc_addr(addr) ? vmalloc_to_page(addr) : virt_to_page(addr);

	return bio_add_page(bio, page, len, offset_in_page(addr)) == len;
}

/*
 * On processors whose caches go by virtual address, memory mapped a second time by vmalloc must be
 * written back before the device reads it and dropped from the cache after the device wrote it.
 */
void hpkv_buffer_to_device(void *addr, int len)
{
	if (is_vmalloc_addr(addr))
		flush_kernel_vmap_range(addr, len);
}

void hpkv_buffer_from_device(void *addr, int len)
{
	if (is_vmalloc_addr(addr))
		invalidate_kernel_vmap_range(addr, len);
}

/* ---- sockets ---- */

int hpkv_tcp_socket(struct socket **res);
int hpkv_socket_bind(struct socket *socket, u32 address, u16 port);
void hpkv_socket_set_timeouts(struct socket *socket, u32 recv_ms, u32 send_ms);
void hpkv_socket_set_keepalive(struct socket *socket);

/*
 * A TCP socket in the network namespace of the running task. A socket of the kernel does not keep
 * its namespace alive by default; this one does, as do the connections it will accept.
 */
int hpkv_tcp_socket(struct socket **res)
{
	struct net *net = current->nsproxy->net_ns;
	int err = sock_create_kern(net, AF_INET, SOCK_STREAM, IPPROTO_TCP, res);

	if (err)
		return err;
	sk_net_refcnt_upgrade((*res)->sk);
	return 0;
}

/* Address and port in the byte order of the machine. Answers leave without delay. */
int hpkv_socket_bind(struct socket *socket, u32 address, u16 port)
{
	struct sockaddr_in name = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(address),
	};

	sock_set_reuseaddr(socket->sk);
	tcp_sock_set_nodelay(socket->sk);
	return kernel_bind(socket, (struct sockaddr_unsized *)&name, sizeof(name));
}

static long hpkv_timeout(u32 ms)
{
	return ms ? msecs_to_jiffies(ms) : MAX_SCHEDULE_TIMEOUT;
}

/* 0 = no limit. */
void hpkv_socket_set_timeouts(struct socket *socket, u32 recv_ms, u32 send_ms)
{
	WRITE_ONCE(socket->sk->sk_rcvtimeo, hpkv_timeout(recv_ms));
	WRITE_ONCE(socket->sk->sk_sndtimeo, hpkv_timeout(send_ms));
}

/* A client whose machine is gone is noticed in the end. */
void hpkv_socket_set_keepalive(struct socket *socket)
{
	sock_set_keepalive(socket->sk);
}
