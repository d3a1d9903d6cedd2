// The RDMA libraries (libibverbs, librdmacm), loaded when they are first asked for: one package runs on hosts with and
// without them. What <infiniband/verbs.h> implements inline (posting, polling) calls through the device's context and
// needs no entry here.
#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <string>
#include <vector>

#include "base/status.h"

// Macros over functions of the same names, which would hide the table's entries.
#undef ibv_get_device_list
#undef ibv_query_port
#undef ibv_reg_mr

namespace bf::transport::rdma {

#define BF_VERBS_FUNCTIONS(X)                                                                                         \
  X(ibv_fork_init) X(ibv_get_device_list) X(ibv_free_device_list) X(ibv_get_device_name) X(ibv_open_device)           \
  X(ibv_close_device) X(ibv_query_device) X(ibv_query_port) X(ibv_query_gid) X(ibv_alloc_pd) X(ibv_dealloc_pd)        \
  X(ibv_reg_mr) X(ibv_dereg_mr) X(ibv_create_comp_channel) X(ibv_destroy_comp_channel) X(ibv_create_cq)               \
  X(ibv_destroy_cq) X(ibv_get_cq_event) X(ibv_ack_cq_events) X(ibv_modify_qp) X(ibv_get_async_event)                  \
  X(ibv_ack_async_event) X(ibv_wc_status_str) X(ibv_event_type_str)
#define BF_RDMACM_FUNCTIONS(X)                                                                                        \
  X(rdma_create_event_channel) X(rdma_destroy_event_channel) X(rdma_create_id) X(rdma_destroy_id)                     \
  X(rdma_resolve_addr) X(rdma_resolve_route) X(rdma_bind_addr) X(rdma_listen) X(rdma_get_src_port) X(rdma_create_qp)  \
  X(rdma_destroy_qp) X(rdma_connect) X(rdma_accept) X(rdma_reject) X(rdma_disconnect) X(rdma_get_cm_event)            \
  X(rdma_ack_cm_event) X(rdma_event_str) X(rdma_get_devices) X(rdma_free_devices)

struct Verbs {
#define BF_DECLARE(name) decltype(&::name) name = nullptr;
  BF_VERBS_FUNCTIONS(BF_DECLARE)
  BF_RDMACM_FUNCTIONS(BF_DECLARE)
#undef BF_DECLARE
  decltype(&::ibv_reg_dmabuf_mr) ibv_reg_dmabuf_mr = nullptr;  // null: the library is older (before 34)
  // True if the kernel gives a forked child copies of what a device reads. Where it does not, the library keeps registered
  // memory out of children instead: fine for buffers of ours, not for the program's.
  bool forks_copy = false;

  // The exported symbol has a structure type of its own for callers of the first releases; it fills what it knows.
  int query_port(ibv_context* context, uint8_t port, ibv_port_attr& attributes) const {
    attributes = {};
    return ibv_query_port(context, port, reinterpret_cast<_compat_ibv_port_attr*>(&attributes));
  }
};

// The loaded libraries. kUnavailable: this host has none, or too old ones; says what to install. The same answer for the
// life of the process. Also makes forks safe: memory that a device reads stays with the parent.
Result<const Verbs*> verbs();

// The same where the libraries must be there already: code that holds an object of theirs.
const Verbs& loaded_verbs();

// For tests: these functions from now on.
void replace_verbs(const Verbs& verbs);

}  // namespace bf::transport::rdma
