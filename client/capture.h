// Stream capture as the client follows it: which streams capture, and what host memory the graph will need.
//
// A stream captures from BeginCapture on it, or from a wait for an event that was recorded in a capturing stream, until
// the origin's EndCapture. The driver on the server is the judge; this only answers what is asked often, and knows when
// not to: after any error that may have invalidated a capture, the worker is asked.
#pragma once

#include "client/state.h"

namespace bf::client {

// Nothing captures at the moment: one load, for the launch path.
bool any_capture();

// The capture the stream takes part in; nullptr for none.
std::shared_ptr<Capture> capture_of(CUstream stream);

// The stream records the event / waits for it: captures spread.
void capture_recorded(CUevent event, CUstream stream, unsigned flags);
void capture_waits(CUstream stream, CUevent event, unsigned flags);

// Work on the legacy stream while a stream that synchronises with it captures: STREAM_CAPTURE_IMPLICIT, and the end of
// these captures.
CUresult check_legacy(CUstream stream);

// Adds to what the graph of this capture keeps alive.
void capture_add(Capture& capture, std::shared_ptr<Staging> staging);
void capture_add(Capture& capture, std::shared_ptr<GraphMemory> memory);
void capture_add(Capture& capture, const GraphData& data);
void capture_add(Capture& capture, std::shared_ptr<GraphCallback> callback);

// Memory of the worker that stands for host memory inside a graph; nullptr with *result set.
std::shared_ptr<Staging> make_staging(const HostLayout& host, CUresult* result);
// A host function that a graph may run any number of times.
std::shared_ptr<GraphCallback> make_callback(CUhostFn function, void* user);

}  // namespace bf::client
