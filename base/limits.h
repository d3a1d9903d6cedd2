// Every bound of the wire, the tables and the queues, with its reason. Anything past a bound that comes from a peer
// ends that session; anything past a bound that a program causes is a CUDA error.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bf::limits {

inline constexpr size_t kInlineBytes = 64 << 10;         // payload carried inside a call's frame; larger goes by bulk
inline constexpr size_t kBodyBytes = 1 << 20;            // protobuf body of one frame: largest are batched attribute arrays
inline constexpr size_t kPayloadBytes = 8 << 20;         // inline payload of one frame: code images travel in slices of this size
inline constexpr size_t kControlBodyBytes = 64 << 10;    // control messages before authentication stay small
inline constexpr uint32_t kLanes = 4096;                 // client threads that use CUDA in one process
inline constexpr uint32_t kHandleIndexBits = 24;         // live objects of one kind in one session: 16 M
inline constexpr size_t kArrayElements = 1 << 20;        // elements of one array parameter
inline constexpr size_t kStringBytes = 1 << 20;          // names, JIT options and logs
inline constexpr size_t kImageBytes = size_t{2} << 30;   // one code image (cubin, fatbin, PTX); cuDNN's largest is under 1 GiB
inline constexpr size_t kBulkBlockBytes = 1 << 20;       // one bulk block: large enough to amortise a wake-up, small enough to pipeline
inline constexpr uint32_t kBulkBlocks = 64;              // landing ring of one direction: 64 MiB covers 10 ms at 6 GB/s
inline constexpr uint32_t kTcpBulkBlocks = 256;          // the same of tcp: a batch arrives while the GPU is busy with the one before
inline constexpr uint32_t kBulkChannels = 6;             // data connections of one TCP session, each way; the last two help with much
inline constexpr uint32_t kTcpChannels = 1 + 2 * kBulkChannels;  // of a session beside its calls: side stream, data
inline constexpr uint32_t kDevices = 16;                 // GPUs of one lease
inline constexpr uint32_t kSessionsPerLease = 512;       // ledger slots: processes of one program tree
inline constexpr int kHandshakeTimeoutMs = 10'000;       // a connection that has not said what it wants by then is closed
inline constexpr int kWorkerStartMs = 120'000;           // until a worker has its contexts: the driver makes those of 64 one after the other
inline constexpr uint32_t kIdleConnections = 4096;       // connections bfserver keeps that have not attached yet

}  // namespace bf::limits
