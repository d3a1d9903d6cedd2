// The worker's half of adapters_client.cc.
#include "api/dispatch.h"
#include "proto/api/launch_attributes.h"

namespace bf::server {

CUresult handle_cuOccupancyMaxActiveClusters(Call& call, int* numClusters, CUfunction func,
                                             const CUlaunchConfig* config, std::span<const std::byte> attrs) {
  if (!config) return CUDA_ERROR_INVALID_VALUE;
  CUlaunchConfig real = *config;
  if (CUresult why = take_launch_attributes(call, attrs, real)) return why;
  if (!call.driver.cuOccupancyMaxActiveClusters) return CUDA_ERROR_NOT_SUPPORTED;
  return call.driver.cuOccupancyMaxActiveClusters(numClusters, func, &real);
}

CUresult handle_cuOccupancyMaxPotentialClusterSize(Call& call, int* clusterSize, CUfunction func,
                                                   const CUlaunchConfig* config, std::span<const std::byte> attrs) {
  if (!config) return CUDA_ERROR_INVALID_VALUE;
  CUlaunchConfig real = *config;
  if (CUresult why = take_launch_attributes(call, attrs, real)) return why;
  if (!call.driver.cuOccupancyMaxPotentialClusterSize) return CUDA_ERROR_NOT_SUPPORTED;
  return call.driver.cuOccupancyMaxPotentialClusterSize(clusterSize, func, &real);
}

}  // namespace bf::server
