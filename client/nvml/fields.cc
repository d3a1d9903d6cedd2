// Field values and samples: many numbers through one function each.
#include <cstring>

#include "client/nvml/shim.h"
#include "nvml/handlers.h"

namespace bf::nvml {
namespace {

// The current value of what nvmlDeviceGetSamples would have many of.
std::optional<unsigned> current(const Answers& answers, nvmlSamplingType_t type) {
  switch (type) {
    case NVML_TOTAL_POWER_SAMPLES:
      return answers.number<unsigned>("nvmlDeviceGetPowerUsage");
    case NVML_GPU_UTILIZATION_SAMPLES:
      return answers.number<unsigned>("nvmlDeviceGetUtilizationRates");
    case NVML_MEMORY_UTILIZATION_SAMPLES:
      return answers.number<unsigned>("nvmlDeviceGetUtilizationRates", {}, sizeof(unsigned));
    case NVML_ENC_UTILIZATION_SAMPLES:
      return answers.number<unsigned>("nvmlDeviceGetEncoderUtilization");
    case NVML_DEC_UTILIZATION_SAMPLES:
      return answers.number<unsigned>("nvmlDeviceGetDecoderUtilization");
    case NVML_JPG_UTILIZATION_SAMPLES:
      return answers.number<unsigned>("nvmlDeviceGetJpgUtilization");
    case NVML_OFA_UTILIZATION_SAMPLES:
      return answers.number<unsigned>("nvmlDeviceGetOfaUtilization");
    default:
      return std::nullopt;
  }
}

}  // namespace

nvmlReturn_t handle_nvmlDeviceGetFieldValues(nvmlDevice_t device, int valuesCount, nvmlFieldValue_t* values) {
  if (view() != nullptr && (values == nullptr || valuesCount < 1)) return NVML_ERROR_INVALID_ARGUMENT;
  DevicePointer reading;
  if (nvmlReturn_t error = read_device(device, LeaseView::Want::kSample, reading); error != NVML_SUCCESS) return error;
  for (int i = 0; i < valuesCount; i++) {
    nvmlFieldValue_t& field = values[i];
    // Most fields have no scopes, and programs leave anything there.
    const bool scoped = reading->answers->find(kFieldFunction, {field.fieldId, 1, 0, 0}) != nullptr;
    const Answer* answer = reading->answers->find(kFieldFunction, {field.fieldId, scoped ? field.scopeId : 0, 0, 0});
    field.nvmlReturn = answer != nullptr ? answer->result : NVML_ERROR_INVALID_ARGUMENT;
    if (field.nvmlReturn != NVML_SUCCESS) continue;
    FieldAnswer value;
    std::memcpy(&value, answer->value.data(), std::min(answer->value.size(), sizeof value));
    field.timestamp = (long long)reading->books.sample_unix_us;
    field.latencyUsec = 0;
    field.valueType = value.type;
    std::memcpy(&field.value, &value.value, sizeof field.value);
  }
  return NVML_SUCCESS;
}

// One sample, the last: the card's history belongs to others too.
nvmlReturn_t handle_nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type,
                                         unsigned long long lastSeenTimeStamp, nvmlValueType_t* sampleValType,
                                         unsigned int* sampleCount, nvmlSample_t* samples) {
  if (view() != nullptr && (sampleValType == nullptr || sampleCount == nullptr)) return NVML_ERROR_INVALID_ARGUMENT;
  DevicePointer reading;
  if (nvmlReturn_t error = read_device(device, LeaseView::Want::kSample, reading); error != NVML_SUCCESS) return error;
  const auto value = current(*reading->answers, type);
  if (!value) return NVML_ERROR_NOT_SUPPORTED;
  const bool ask_length = samples == nullptr;
  if (!ask_length && *sampleCount == 0) return NVML_ERROR_INVALID_ARGUMENT;
  if (reading->books.sample_unix_us <= lastSeenTimeStamp) return NVML_ERROR_NOT_FOUND;
  *sampleValType = NVML_VALUE_TYPE_UNSIGNED_INT;
  *sampleCount = 1;
  if (ask_length) return NVML_SUCCESS;
  samples[0] = {};
  samples[0].timeStamp = reading->books.sample_unix_us;
  samples[0].sampleValue.uiVal = *value;
  return NVML_SUCCESS;
}

}  // namespace bf::nvml
