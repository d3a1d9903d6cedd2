// Managed memory as CUDA courses use it: arrays, structures, lists, variables, streams, graphs, host functions.
#include <sys/wait.h>
#include <unistd.h>

#include "e2e.h"

__managed__ int counter = 41;
__managed__ float table[1000];
__device__ __managed__ struct {
  int* values;
  int count;
} job;

__global__ void add(const float* x, float* y, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] += x[i];
}
__global__ void step(int* values, int n, int by) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) values[i] += by;
}
__global__ void use_variables() {
  int i = threadIdx.x;
  table[i] = table[i] * 2 + i;
  if (i == 0) counter += 1;
  if (i < job.count) job.values[i] = i * i;
}

struct Node {
  int value;
  Node* next;
  char* name;
};
__global__ void walk(Node* node, int* total) {
  for (; node; node = node->next) {
    atomicAdd(total, node->value);
    for (char* c = node->name; *c; c++) *c ^= 0x20;
  }
}

static void arrays() {
  const int n = 1 << 18;
  float *x, *y;
  CHECK(cudaMallocManaged(&x, n * sizeof(float)));
  CHECK(cudaMallocManaged(&y, n * sizeof(float)));
  for (int i = 0; i < n; i++) x[i] = 1.0f, y[i] = float(i);
  add<<<64, 256>>>(x, y, n);
  CHECK(cudaDeviceSynchronize());
  std::printf("add: %016llx\n", (unsigned long long)hash_bytes(y, n * sizeof(float)));
  for (int round = 0; round < 3; round++) {
    x[round] = 100.0f;
    y[n - 1 - round] = -1.0f;
    add<<<64, 256>>>(x, y, n);
    add<<<64, 256>>>(x, y, n);
    CHECK(cudaDeviceSynchronize());
    std::printf("round %d: %g %g %016llx\n", round, y[round], y[n - 1 - round], (unsigned long long)hash_bytes(y, n * sizeof(float)));
  }
  float* device;
  CHECK(cudaMalloc(&device, n * sizeof(float)));
  CHECK(cudaMemcpy(device, y, n * sizeof(float), cudaMemcpyDefault));
  CHECK(cudaMemset(y, 0, 1000));
  CHECK(cudaDeviceSynchronize());
  std::printf("set: %g %g\n", y[0], y[250]);
  CHECK(cudaMemcpy(y, device, n * sizeof(float), cudaMemcpyDeviceToDevice));
  CHECK(cudaDeviceSynchronize());
  std::printf("copied: %016llx\n", (unsigned long long)hash_bytes(y, n * sizeof(float)));
  std::vector<float> host(n, 3.0f);
  CHECK(cudaMemcpy(x, host.data(), n * sizeof(float), cudaMemcpyHostToDevice));
  std::printf("from the host: %g %g\n", x[0], x[n - 1]);
  CHECK(cudaMemcpy(host.data(), y, n * sizeof(float), cudaMemcpyDeviceToHost));
  std::printf("to the host: %d\n", std::memcmp(host.data(), y, n * sizeof(float)) == 0);
  FILE* file = std::tmpfile();
  std::fwrite(host.data(), sizeof(float), n, file);
  std::rewind(file);
  std::memset(x, 0, n * sizeof(float));
  size_t got = std::fread(x, sizeof(float), n, file);
  add<<<64, 256>>>(x, y, n);
  CHECK(cudaStreamSynchronize(0));
  std::printf("fread: %zu %016llx\n", got, (unsigned long long)hash_bytes(y, n * sizeof(float)));
  CHECK(cudaFree(x));
  CHECK(cudaFree(y));
  SHOW(cudaFree(y));
  (void)cudaGetLastError();
  CHECK(cudaFree(device));
}

static void lists() {
  Node* first = nullptr;
  int* total;
  CHECK(cudaMallocManaged(&total, sizeof(int)));
  *total = 0;
  for (int i = 0; i < 300; i++) {
    Node* node;
    CHECK(cudaMallocManaged(&node, sizeof(Node)));
    CHECK(cudaMallocManaged(&node->name, 16));
    std::snprintf(node->name, 16, "node%d", i);
    node->value = i;
    node->next = first;
    first = node;
  }
  for (int round = 0; round < 2; round++) {
    walk<<<1, 1>>>(first, total);
    CHECK(cudaDeviceSynchronize());
    std::printf("list: %d %s %s\n", *total, first->name, first->next->next->name);
    first->value += 1000;
    first->next->name[0] = '*';
  }
  while (first) {
    Node* next = first->next;
    CHECK(cudaFree(first->name));
    CHECK(cudaFree(first));
    first = next;
  }
  CHECK(cudaFree(total));
}

static void variables() {
  for (int i = 0; i < 1000; i++) table[i] = 0.5f * float(i);
  CHECK(cudaMallocManaged(&job.values, 100 * sizeof(int)));
  job.count = 100;
  for (int round = 0; round < 2; round++) {
    use_variables<<<1, 1000>>>();
    CHECK(cudaDeviceSynchronize());
    std::printf("variables: %d %g %g %d\n", counter, table[1], table[999], job.values[99]);
    counter += 10;
    job.values[99] = 0;
    table[999] = 0;
  }
  CHECK(cudaFree(job.values));
}

static int g_seen;
static void CUDART_CB host_step(void* data) {
  int* values = static_cast<int*>(data);
  g_seen = values[3];
  for (int i = 0; i < 1000; i++) values[i] *= 2;
}

static void order() {
  int *a, *b;
  CHECK(cudaMallocManaged(&a, 4000));
  CHECK(cudaMallocManaged(&b, 4000, cudaMemAttachHost));
  for (int i = 0; i < 1000; i++) a[i] = i, b[i] = -i;
  cudaStream_t one, two;
  CHECK(cudaStreamCreate(&one));
  CHECK(cudaStreamCreate(&two));
  CHECK(cudaStreamAttachMemAsync(two, b, 0, cudaMemAttachSingle));
  CHECK(cudaStreamSynchronize(two));
  step<<<4, 256, 0, one>>>(a, 1000, 1);
  step<<<4, 256, 0, two>>>(b, 1000, 1);
  CHECK(cudaStreamSynchronize(two));
  std::printf("stream two: %d\n", b[999]);
  CHECK(cudaStreamSynchronize(one));
  std::printf("stream one: %d\n", a[999]);
  step<<<4, 256, 0, one>>>(a, 1000, 1);
  CHECK(cudaLaunchHostFunc(one, host_step, a));
  step<<<4, 256, 0, one>>>(a, 1000, 1);
  CHECK(cudaStreamSynchronize(one));
  std::printf("host function: saw %d, %d\n", g_seen, a[999]);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamBeginCapture(one, cudaStreamCaptureModeGlobal));
  step<<<4, 256, 0, one>>>(a, 1000, 5);
  CHECK(cudaMemcpyAsync(b, a, 4000, cudaMemcpyDefault, one));
  step<<<4, 256, 0, one>>>(b, 1000, 7);
  CHECK(cudaStreamEndCapture(one, &graph));
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  for (int round = 0; round < 2; round++) {
    a[0] = 1000 * round;
    CHECK(cudaGraphLaunch(exec, one));
    CHECK(cudaStreamSynchronize(one));
    std::printf("graph: %d %d %d %d\n", a[0], b[0], a[999], b[999]);
  }
  CHECK(cudaFree(a));
  CHECK(cudaFree(b));
}

static void hints() {
  const size_t bytes = 4 << 20;
  char* memory;
  CHECK(cudaMallocManaged(&memory, bytes));
  cudaMemLocation device{cudaMemLocationTypeDevice, 0}, host{cudaMemLocationTypeHost, 0}, wrong{cudaMemLocationTypeDevice, 77};
  SHOW(cudaMemPrefetchAsync(memory, bytes, device, 0, 0));
  SHOW(cudaMemPrefetchAsync(memory, bytes + 1, device, 0, 0));
  SHOW(cudaMemPrefetchAsync(memory, bytes, wrong, 0, 0));
  SHOW(cudaMemAdvise(memory, bytes, cudaMemAdviseSetReadMostly, device));
  SHOW(cudaMemAdvise(memory, bytes / 2, cudaMemAdviseSetPreferredLocation, device));
  SHOW(cudaMemAdvise(memory, bytes, cudaMemAdviseSetAccessedBy, host));
  SHOW(cudaMemAdvise(memory, bytes, cudaMemAdviseSetAccessedBy, wrong));
  int value = 0, list[3];
  CHECK(cudaMemRangeGetAttribute(&value, sizeof value, cudaMemRangeAttributeReadMostly, memory, bytes));
  std::printf("read mostly %d", value);
  CHECK(cudaMemRangeGetAttribute(&value, sizeof value, cudaMemRangeAttributePreferredLocation, memory, bytes));
  std::printf(", preferred %d", value);
  CHECK(cudaMemRangeGetAttribute(&value, sizeof value, cudaMemRangeAttributePreferredLocation, memory, bytes / 2));
  std::printf(", half %d", value);
  CHECK(cudaMemRangeGetAttribute(&value, sizeof value, cudaMemRangeAttributeLastPrefetchLocation, memory, bytes));
  std::printf(", prefetched %d", value);
  CHECK(cudaMemRangeGetAttribute(list, sizeof list, cudaMemRangeAttributeAccessedBy, memory, bytes));
  std::printf(", accessed by %d %d %d\n", list[0], list[1], list[2]);
  cudaPointerAttributes attributes;
  CHECK(cudaPointerGetAttributes(&attributes, memory + 100));
  std::printf("type %d, same %d %d\n", attributes.type, attributes.devicePointer == memory + 100, attributes.hostPointer == memory + 100);
  CHECK(cudaFree(memory));
  void* none = nullptr;
  SHOW(cudaMallocManaged(&none, 0));
  SHOW(cudaMallocManaged(&none, 100, 8));
  (void)cudaGetLastError();
}

// A child made by fork() uses no CUDA; the parent goes on.
static void forked() {
  int* values;
  CHECK(cudaMallocManaged(&values, 4000));
  for (int i = 0; i < 1000; i++) values[i] = i;
  std::fflush(stdout);
  pid_t child = fork();
  if (child == 0) _exit(7);
  int status = 0;
  waitpid(child, &status, 0);
  step<<<4, 256>>>(values, 1000, 2);
  CHECK(cudaDeviceSynchronize());
  std::printf("after a fork: %d %d\n", WEXITSTATUS(status), values[999]);
  step<<<4, 256>>>(values, 1000, 2);
  CHECK(cudaFree(values));  // while it is in use: the free waits
}

int main() {
  variables();
  arrays();
  lists();
  order();
  hints();
  forked();
  std::printf("counter %d\n", counter);
}
