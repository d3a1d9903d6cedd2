#include "softgpu/driver/stream.h"

#include <unordered_map>

#include "proto/api/softgpu_support.h"
#include "softgpu/driver/driver.h"
#include "softgpu/driver/graph.h"
#include "softgpu/driver/thread_value.h"

namespace bf::softgpu {
namespace {

std::atomic<uint64_t> g_last_stream_id{16};

// Takes a stream out of its context. What is queued still runs, the context still waits for it, and the legacy stream
// still follows it.
void retire(const StreamRef& stream) {
  Context& context = *stream->context;
  std::lock_guard lock(context.mutex);
  std::erase_if(context.orphans, [](const OperationRef& operation) { return operation->done(); });
  if (stream->tail && !stream->tail->done()) {
    context.orphans.push_back(stream->tail);
    if (context.legacy && stream->blocking()) {
      OperationRef both[] = {stream->tail, context.legacy->tail};
      context.legacy->tail = Scheduler::instance().submit({}, both);
    }
  }
  std::erase(context.streams, stream);
}

// The calling thread's own streams, one per context; they end with the thread.
struct PerThreadStreams {
  std::unordered_map<uint64_t, StreamRef> by_context;
  ~PerThreadStreams() {
    for (auto& [id, stream] : by_context) retire(stream);
  }
};

StreamRef own_stream(const ContextRef& context) {
  StreamRef& slot = thread_value<PerThreadStreams, PerThreadStreams>().by_context[context->id];
  if (slot && slot->context->active) {
    std::lock_guard lock(context->mutex);
    for (const StreamRef& stream : context->streams)
      if (stream == slot) return slot;
  }
  slot = std::make_shared<Stream>();
  slot->context = context;
  slot->handle = CU_STREAM_PER_THREAD;
  slot->id = ++g_last_stream_id;
  std::lock_guard lock(context->mutex);
  context->streams.push_back(slot);
  return slot;
}

}  // namespace

StreamRegistry& streams() {
  static StreamRegistry* registry = new StreamRegistry;
  return *registry;
}

StreamRef make_stream(const ContextRef& context, uint32_t flags, int priority) {
  auto stream = std::make_shared<Stream>();
  stream->context = context;
  stream->flags = flags;
  stream->priority = std::clamp(priority, -5, 0);
  stream->id = ++g_last_stream_id;
  streams().add(stream);
  std::lock_guard lock(context->mutex);
  context->streams.push_back(stream);
  return stream;
}

CUresult default_stream(StreamRef* stream) { return find_stream(nullptr, stream); }

CUresult find_stream(CUstream handle, StreamRef* stream) {
  if (handle && handle != CU_STREAM_LEGACY && handle != CU_STREAM_PER_THREAD) {
    *stream = streams().find(handle);
    if (!*stream) {
      ContextRef context;
      BF_TRY(current_context(&context));
      return CUDA_ERROR_INVALID_HANDLE;
    }
    return usable(*(*stream)->context);
  }
  ContextRef context;
  BF_TRY(current_context(&context));
  const ContextRef green = current_green();
  if (handle == CU_STREAM_PER_THREAD || (!handle && t_per_thread)) {
    if (green) return CUDA_ERROR_INVALID_HANDLE;
    *stream = own_stream(context);
  } else if (green) {
    *stream = green->legacy;
  } else {
    std::lock_guard lock(context->mutex);
    *stream = context->legacy;
  }
  return *stream ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

// The legacy stream follows every blocking stream; every blocking stream follows the legacy stream. context->mutex is
// held.
std::vector<OperationRef> stream_predecessors(Stream& stream) {
  std::vector<OperationRef> before;
  auto add = [&](Stream& other) {
    if (other.tail && other.tail->done()) other.tail = nullptr;
    if (other.tail) before.push_back(other.tail);
  };
  if (stream.legacy) {
    for (const StreamRef& other : stream.context->streams)
      if (other->blocking()) add(*other);
  } else {
    add(stream);
    if (stream.blocking() && stream.context->legacy) add(*stream.context->legacy);
  }
  return before;
}

OperationRef append(Stream& stream, std::function<void()> function, std::span<const OperationRef> extra) {
  std::lock_guard lock(stream.context->mutex);
  std::vector<OperationRef> before = stream_predecessors(stream);
  before.insert(before.end(), extra.begin(), extra.end());
  stream.tail = Scheduler::instance().submit(std::move(function), before);
  return stream.tail;
}

// A launch counts until it has run.
static void begin_launch(Stream& stream) {
  for (uint32_t queued = stream.launches; queued >= Stream::kLaunches; queued = stream.launches) stream.launches.wait(queued);
  if (++stream.launches == Stream::kLaunches) ++stream.context->full_streams;
}

static void end_launch(Stream& stream) {
  if (stream.launches-- == Stream::kLaunches) {
    --stream.context->full_streams;
    stream.context->full_streams.notify_all();
  }
  stream.launches.notify_all();
}

CUresult enqueue(const StreamRef& stream, Work work, Delivery delivery) {
  bool captured = false;
  BF_TRY(capture_work(stream, work, delivery, &captured));
  if (captured) return CUDA_SUCCESS;
  Context& context = *stream->context;
  if (delivery == Delivery::kAsync) {
    const bool launch = std::holds_alternative<KernelWork>(work);
    if (launch) begin_launch(*stream);
    append(*stream, [stream, launch, work = std::move(work)] {
      run_work(*stream->context, work);
      if (launch) end_launch(*stream);
    });
    return CUDA_SUCCESS;
  }
  OperationRef operation;
  {
    std::lock_guard lock(context.mutex);
    operation = Scheduler::instance().prepare(stream_predecessors(*stream));
    stream->tail = operation;
  }
  Scheduler::instance().run(operation, [&] { run_work(context, work); });
  flush_printed(context);
  return context.fault;
}

// --------------------------------------------------------------------------------------------------------- entry
// points

BF_API CUresult cuStreamCreateWithPriority(CUstream* phStream, unsigned int flags, int priority) {
  BF_ENTER();
  if (!phStream || flags > CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  const StreamRef made = make_stream(context, flags, priority);
  made->green = current_green();
  *phStream = made->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuStreamCreate(CUstream* phStream, unsigned int flags) {
  BF_ENTER();
  return cuStreamCreateWithPriority(phStream, flags, 0);
}

BF_API CUresult cuStreamDestroy_v2(CUstream handle) {
  BF_ENTER();
  StreamRef stream = streams().find(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  abandon_capture(*stream);
  streams().remove(handle);
  retire(stream);
  return stream->context->fault;  // the stream is gone all the same (580.159.04)
}

BF_API CUresult cuStreamQuery(CUstream handle) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  BF_TRY(check_stream_not_capturing(*stream));
  std::vector<OperationRef> pending;
  {
    std::lock_guard lock(stream->context->mutex);
    pending = stream_predecessors(*stream);
  }
  if (!stream->legacy && !pending.empty()) {
    std::lock_guard lock(stream->context->mutex);
    return stream->tail && !stream->tail->done() ? CUDA_ERROR_NOT_READY : stream->context->fault.load();
  }
  return pending.empty() ? stream->context->fault.load() : CUDA_ERROR_NOT_READY;
}

BF_API CUresult cuStreamSynchronize(CUstream handle) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  BF_TRY(check_stream_not_capturing(*stream));
  std::vector<OperationRef> pending;
  {
    std::lock_guard lock(stream->context->mutex);
    if (stream->legacy)
      pending = stream_predecessors(*stream);
    else if (stream->tail)
      pending.push_back(stream->tail);
  }
  for (const OperationRef& operation : pending) operation->wait();
  flush_printed(*stream->context);
  return stream->context->fault;
}

BF_API CUresult cuStreamGetPriority(CUstream handle, int* priority) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  if (!priority) return CUDA_ERROR_INVALID_VALUE;
  *priority = stream->priority;
  return CUDA_SUCCESS;
}

BF_API CUresult cuStreamGetFlags(CUstream handle, unsigned int* flags) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  if (!flags) return CUDA_ERROR_INVALID_VALUE;
  *flags = stream->flags;
  return CUDA_SUCCESS;
}

BF_API CUresult cuStreamGetId(CUstream handle, unsigned long long* id) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  if (!id) return CUDA_ERROR_INVALID_VALUE;
  *id = stream->id;
  return CUDA_SUCCESS;
}

BF_API CUresult cuStreamGetDevice(CUstream handle, CUdevice* device) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  if (!device) return CUDA_ERROR_INVALID_VALUE;
  *device = stream->context->device->ordinal;
  return CUDA_SUCCESS;
}

BF_API CUresult cuStreamGetCtx(CUstream handle, CUcontext* context) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  if (!context) return CUDA_ERROR_INVALID_VALUE;
  *context = (stream->green ? stream->green : stream->context)->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuStreamGetCtx_v2(CUstream handle, CUcontext* context, CUgreenCtx* green) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  if (!context || !green) return CUDA_ERROR_INVALID_VALUE;
  *context = stream->context->handle;
  *green = stream->green ? stream->green->green : nullptr;
  return CUDA_SUCCESS;
}

BF_API CUresult cuStreamGetAttribute(CUstream handle, CUstreamAttrID attribute, CUstreamAttrValue* value) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  switch (int(attribute)) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
      value->accessPolicyWindow = stream->access_window;
      return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
      value->syncPolicy = stream->sync_policy;
      return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
      value->priority = stream->priority;
      return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
      value->memSyncDomain = CU_LAUNCH_MEM_SYNC_DOMAIN_DEFAULT;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

BF_API CUresult cuStreamSetAttribute(CUstream handle, CUstreamAttrID attribute, const CUstreamAttrValue* value) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  switch (int(attribute)) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
      stream->access_window = value->accessPolicyWindow;
      return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
      stream->sync_policy = value->syncPolicy;
      return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
      stream->priority = std::clamp(value->priority, -5, 0);
      return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

BF_API CUresult cuStreamCopyAttributes(CUstream destination, CUstream source) {
  BF_ENTER();
  StreamRef from, to;
  BF_TRY(find_stream(source, &from));
  BF_TRY(find_stream(destination, &to));
  to->access_window = from->access_window;
  to->sync_policy = from->sync_policy;
  return CUDA_SUCCESS;
}

BF_API CUresult cuStreamAttachMemAsync(CUstream handle, CUdeviceptr dptr, size_t, unsigned int flags) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  AllocationRef allocation = AddressSpace::instance().find(dptr);
  bool known_flag = flags == CU_MEM_ATTACH_GLOBAL || flags == CU_MEM_ATTACH_HOST || flags == CU_MEM_ATTACH_SINGLE;
  if (!known_flag || !allocation || allocation->kind != MemoryKind::kManaged) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

BF_API CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void* user_data) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  if (!function) return CUDA_ERROR_INVALID_VALUE;
  return enqueue(stream, HostWork{function, user_data});
}

BF_API CUresult cuStreamAddCallback(CUstream handle, CUstreamCallback callback, void* user_data, unsigned int flags) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  if (!callback || flags) return CUDA_ERROR_INVALID_VALUE;
  return enqueue(stream, CallbackWork{callback, handle, user_data});
}

// ------------------------------------------------------------------------------------------------- values in memory

BF_API CUresult cuStreamBatchMemOp_v2(CUstream handle, unsigned int count, CUstreamBatchMemOpParams* operations,
                                      unsigned int flags) {
  BF_ENTER();
  StreamRef stream;
  BF_TRY(find_stream(handle, &stream));
  if (count > 256 || (count && !operations) || flags) return CUDA_ERROR_INVALID_VALUE;
  MemoryOpWork work;
  for (unsigned i = 0; i < count; i++) {
    BF_TRY(check_memory_operation(operations[i]));
    work.operations.push_back(operations[i]);
  }
  return enqueue(stream, std::move(work));
}

namespace {

CUresult one_memory_operation(CUstream stream, CUstreamBatchMemOpType type, CUdeviceptr address, uint64_t value,
                              unsigned int flags) {
  CUstreamBatchMemOpParams operation{};
  operation.writeValue.operation = type;  // waitValue has the same layout
  operation.writeValue.address = address;
  operation.writeValue.value64 = value;
  operation.writeValue.flags = flags;
  return cuStreamBatchMemOp_v2(stream, 1, &operation, 0);
}

}  // namespace

CUresult check_memory_operation(const CUstreamBatchMemOpParams& operation) {
  uint64_t bytes = 0;
  switch (operation.operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
      bytes = 4;
      break;
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
      bytes = 8;
      break;
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
    case CU_STREAM_MEM_OP_BARRIER:
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  const bool waits = operation.operation == CU_STREAM_MEM_OP_WAIT_VALUE_32 || operation.operation == CU_STREAM_MEM_OP_WAIT_VALUE_64;
  const unsigned known = waits ? CU_STREAM_WAIT_VALUE_NOR | CU_STREAM_WAIT_VALUE_FLUSH : CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER;
  if (operation.writeValue.flags & ~known) return CUDA_ERROR_INVALID_VALUE;
  uint64_t address = operation.writeValue.address;
  AllocationRef allocation = AddressSpace::instance().find(address);
  if (address % bytes || !allocation || address + bytes > allocation->end()) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

BF_API CUresult cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned int flags) {
  BF_ENTER();
  return one_memory_operation(stream, CU_STREAM_MEM_OP_WRITE_VALUE_32, address, value, flags);
}
BF_API CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int flags) {
  BF_ENTER();
  return one_memory_operation(stream, CU_STREAM_MEM_OP_WRITE_VALUE_64, address, value, flags);
}
BF_API CUresult cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned int flags) {
  BF_ENTER();
  return one_memory_operation(stream, CU_STREAM_MEM_OP_WAIT_VALUE_32, address, value, flags);
}
BF_API CUresult cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int flags) {
  BF_ENTER();
  return one_memory_operation(stream, CU_STREAM_MEM_OP_WAIT_VALUE_64, address, value, flags);
}

}  // namespace bf::softgpu
