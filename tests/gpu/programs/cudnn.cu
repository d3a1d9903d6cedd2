// cuDNN: convolution in three directions, pooling, softmax, activations, batch normalisation, dropout, reductions, an LSTM.
#include <cudnn.h>

#include "cases.h"

namespace {

constexpr int kImages = 4, kChannels = 8, kSide = 12, kFilters = 16, kArea = kSide * kSide;
constexpr int kInput = kImages * kChannels * kArea, kOutput = kImages * kFilters * kArea, kWeights = kFilters * kChannels * 9;
cudnnHandle_t g_dnn;
const float kOne = 1, kZero = 0;

struct Tensor {
  cudnnTensorDescriptor_t descriptor;
  Tensor(int n, int c, int h, int w) {
    NEED(cudnnCreateTensorDescriptor(&descriptor));
    NEED(cudnnSetTensor4dDescriptor(descriptor, CUDNN_TENSOR_NCHW, CUDNN_DATA_FLOAT, n, c, h, w));
  }
  ~Tensor() { cudnnDestroyTensorDescriptor(descriptor); }
  operator cudnnTensorDescriptor_t() const { return descriptor; }
};

struct Convolution {
  Tensor x{kImages, kChannels, kSide, kSide}, y{kImages, kFilters, kSide, kSide};
  cudnnFilterDescriptor_t w;
  cudnnConvolutionDescriptor_t descriptor;
  std::vector<float> input = whole_numbers<float>(kInput, 1), weights = whole_numbers<float>(kWeights, 2);
  Convolution() {
    NEED(cudnnCreateFilterDescriptor(&w));
    NEED(cudnnSetFilter4dDescriptor(w, CUDNN_DATA_FLOAT, CUDNN_TENSOR_NCHW, kFilters, kChannels, 3, 3));
    NEED(cudnnCreateConvolutionDescriptor(&descriptor));
    NEED(cudnnSetConvolution2dDescriptor(descriptor, 1, 1, 1, 1, 1, 1, CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT));
  }
};

// Calls visit(n, k, c, y, x, v, u) for every product of a 3 x 3 convolution with padding 1.
template <class Visit>
void each_product(const Visit& visit) {
  for (int n = 0; n < kImages; n++)
    for (int k = 0; k < kFilters; k++)
      for (int c = 0; c < kChannels; c++)
        for (int at = 0; at < kArea; at++)
          for (int tap = 0; tap < 9; tap++) {
            int row = at / kSide + tap / 3 - 1, column = at % kSide + tap % 3 - 1;
            if (row < 0 || column < 0 || row >= kSide || column >= kSide) continue;
            visit((n * kChannels + c) * kArea + row * kSide + column, (k * kChannels + c) * 9 + tap, (n * kFilters + k) * kArea + at);
          }
}

Result forward(cudnnConvolutionFwdAlgo_t algorithm, cudnnMathType_t math) {
  Convolution conv;
  DeviceArray<float> x(conv.input), w(conv.weights), y(kOutput);
  size_t room = 0;
  NEED(cudnnSetConvolutionMathType(conv.descriptor, math));
  NEED(cudnnGetConvolutionForwardWorkspaceSize(g_dnn, conv.x, conv.w, conv.descriptor, conv.y, algorithm, &room));
  DeviceArray<char> workspace(room + 1);
  NEED(cudnnConvolutionForward(g_dnn, &kOne, conv.x, x.get(), conv.w, w.get(), conv.descriptor, algorithm, workspace.get(), room, &kZero, conv.y, y.get()));
  std::vector<double> wanted(kOutput);
  each_product([&](int i, int j, int o) { wanted[o] += double(conv.input[i]) * conv.weights[j]; });
  auto got = y.host();
  return {close(got, wanted, 1e-4), hash_of(got)};
}

Result backward_data() {
  Convolution conv;
  auto gradient = whole_numbers<float>(kOutput, 3);
  DeviceArray<float> dy(gradient), w(conv.weights), dx(kInput);
  size_t room = 0;
  NEED(cudnnGetConvolutionBackwardDataWorkspaceSize(g_dnn, conv.w, conv.y, conv.descriptor, conv.x, CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, &room));
  DeviceArray<char> workspace(room + 1);
  NEED(cudnnConvolutionBackwardData(g_dnn, &kOne, conv.w, w.get(), conv.y, dy.get(), conv.descriptor, CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, workspace.get(), room,
                                    &kZero, conv.x, dx.get()));
  std::vector<double> wanted(kInput);
  each_product([&](int i, int j, int o) { wanted[i] += double(gradient[o]) * conv.weights[j]; });
  auto got = dx.host();
  return {close(got, wanted, 1e-4), hash_of(got)};
}

Result backward_filter() {
  Convolution conv;
  auto gradient = whole_numbers<float>(kOutput, 4);
  DeviceArray<float> dy(gradient), x(conv.input), dw(kWeights);
  size_t room = 0;
  NEED(cudnnGetConvolutionBackwardFilterWorkspaceSize(g_dnn, conv.x, conv.y, conv.descriptor, conv.w, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, &room));
  DeviceArray<char> workspace(room + 1);
  NEED(cudnnConvolutionBackwardFilter(g_dnn, &kOne, conv.x, x.get(), conv.y, dy.get(), conv.descriptor, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, workspace.get(), room,
                                      &kZero, conv.w, dw.get()));
  std::vector<double> wanted(kWeights);
  each_product([&](int i, int j, int o) { wanted[j] += double(gradient[o]) * conv.input[i]; });
  auto got = dw.host();
  return {close(got, wanted, 1e-4), hash_of(got)};
}

Result pooling() {
  Tensor x(kImages, kChannels, kSide, kSide), y(kImages, kChannels, kSide / 2, kSide / 2);
  cudnnPoolingDescriptor_t pool;
  NEED(cudnnCreatePoolingDescriptor(&pool));
  NEED(cudnnSetPooling2dDescriptor(pool, CUDNN_POOLING_MAX_DETERMINISTIC, CUDNN_NOT_PROPAGATE_NAN, 2, 2, 0, 0, 2, 2));
  auto input = whole_numbers<float>(kInput, 5, 101);
  DeviceArray<float> dx(input), dy(kInput / 4), back(kInput);
  NEED(cudnnPoolingForward(g_dnn, pool, &kOne, x, dx.get(), &kZero, y, dy.get()));
  NEED(cudnnPoolingBackward(g_dnn, pool, &kOne, y, dy.get(), y, dy.get(), x, dx.get(), &kZero, x, back.get()));
  NEED(cudnnDestroyPoolingDescriptor(pool));
  auto got = dy.host(), gradient = back.host();
  bool right = true;
  double kept = 0, sum = 0;
  for (int plane = 0; plane < kImages * kChannels; plane++)
    for (int at = 0; at < kArea / 4; at++) {
      const float* corner = &input[plane * kArea + at / (kSide / 2) * 2 * kSide + at % (kSide / 2) * 2];
      float most = std::fmax(std::fmax(corner[0], corner[1]), std::fmax(corner[kSide], corner[kSide + 1]));
      right &= got[plane * kArea / 4 + at] == most;
      sum += most;
    }
  for (float value : gradient) kept += value;
  return {right && kept == sum, hash_of(got) ^ hash_of(gradient)};
}

Result softmax() {
  constexpr int kRows = 32, kColumns = 50;
  Tensor t(kRows, kColumns, 1, 1);
  auto input = whole_numbers<float>(kRows * kColumns, 6);
  DeviceArray<float> x(input), y(input.size());
  NEED(cudnnSoftmaxForward(g_dnn, CUDNN_SOFTMAX_ACCURATE, CUDNN_SOFTMAX_MODE_CHANNEL, &kOne, t, x.get(), &kZero, t, y.get()));
  std::vector<double> wanted(input.size());
  for (int row = 0; row < kRows; row++) {
    double sum = 0;
    for (int i = 0; i < kColumns; i++) sum += std::exp(double(input[row * kColumns + i]));
    for (int i = 0; i < kColumns; i++) wanted[row * kColumns + i] = std::exp(double(input[row * kColumns + i])) / sum;
  }
  auto got = y.host();
  return {close(got, wanted, 1e-5), hash_of(got)};
}

Result activation(cudnnActivationMode_t mode, double (*function)(double)) {
  Tensor t(kImages, kChannels, kSide, kSide);
  cudnnActivationDescriptor_t descriptor;
  NEED(cudnnCreateActivationDescriptor(&descriptor));
  NEED(cudnnSetActivationDescriptor(descriptor, mode, CUDNN_NOT_PROPAGATE_NAN, 0));
  auto input = whole_numbers<float>(kInput, 7);
  DeviceArray<float> x(input), y(kInput);
  NEED(cudnnActivationForward(g_dnn, descriptor, &kOne, t, x.get(), &kZero, t, y.get()));
  NEED(cudnnDestroyActivationDescriptor(descriptor));
  std::vector<double> wanted;
  for (float value : input) wanted.push_back(function(value));
  auto got = y.host();
  return {close(got, wanted, 1e-5), hash_of(got)};
}

Result batch_normalisation() {
  Tensor t(kImages, kChannels, kSide, kSide), p(1, kChannels, 1, 1);
  auto input = whole_numbers<float>(kInput, 8);
  DeviceArray<float> x(input), y(kInput), scale(std::vector<float>(kChannels, 2)), bias(std::vector<float>(kChannels, 1)), mean(kChannels), variance(kChannels);
  NEED(cudnnBatchNormalizationForwardTraining(g_dnn, CUDNN_BATCHNORM_SPATIAL, &kOne, &kZero, t, x.get(), t, y.get(), p, scale.get(), bias.get(), 1.0, mean.get(),
                                              variance.get(), 1e-5, nullptr, nullptr));
  std::vector<double> wanted(kInput);
  for (int c = 0; c < kChannels; c++) {
    double sum = 0, squares = 0, count = kImages * kArea;
    auto at = [&](int n, int i) { return (n * kChannels + c) * kArea + i; };
    for (int n = 0; n < kImages; n++)
      for (int i = 0; i < kArea; i++) sum += input[at(n, i)], squares += double(input[at(n, i)]) * input[at(n, i)];
    double average = sum / count, deviation = std::sqrt(squares / count - average * average + 1e-5);
    for (int n = 0; n < kImages; n++)
      for (int i = 0; i < kArea; i++) wanted[at(n, i)] = 2 * (input[at(n, i)] - average) / deviation + 1;
  }
  auto got = y.host();
  return {close(got, wanted, 1e-4), hash_of(got) ^ hash_of(variance.host())};
}

Result dropout() {  // what is kept is doubled; the same seed keeps the same
  Tensor t(1, 1, 100, 100);
  cudnnDropoutDescriptor_t descriptor;
  size_t states = 0, reserve = 0;
  NEED(cudnnDropoutGetStatesSize(g_dnn, &states));
  NEED(cudnnDropoutGetReserveSpaceSize(t, &reserve));
  DeviceArray<char> state(states), kept(reserve);
  DeviceArray<float> x(std::vector<float>(10000, 1)), y(10000);
  NEED(cudnnCreateDropoutDescriptor(&descriptor));
  NEED(cudnnSetDropoutDescriptor(descriptor, g_dnn, 0.5f, state.get(), states, 1234));
  NEED(cudnnDropoutForward(g_dnn, descriptor, t, x.get(), t, y.get(), kept.get(), reserve));
  NEED(cudnnDestroyDropoutDescriptor(descriptor));
  auto got = y.host();
  int doubled = 0, dropped = 0;
  for (float value : got) doubled += value == 2, dropped += value == 0;
  return {doubled + dropped == 10000 && doubled > 4700 && doubled < 5300, hash_of(got)};
}

Result reduction() {
  Tensor t(kImages, kChannels, kSide, kSide), one(1, 1, 1, 1);
  cudnnReduceTensorDescriptor_t descriptor;
  size_t room = 0;
  NEED(cudnnCreateReduceTensorDescriptor(&descriptor));
  NEED(cudnnSetReduceTensorDescriptor(descriptor, CUDNN_REDUCE_TENSOR_ADD, CUDNN_DATA_FLOAT, CUDNN_NOT_PROPAGATE_NAN, CUDNN_REDUCE_TENSOR_NO_INDICES, CUDNN_32BIT_INDICES));
  NEED(cudnnGetReductionWorkspaceSize(g_dnn, descriptor, t, one, &room));
  auto input = whole_numbers<float>(kInput, 9);
  DeviceArray<float> x(input), y(1);
  DeviceArray<char> workspace(room + 1);
  NEED(cudnnReduceTensor(g_dnn, descriptor, nullptr, 0, workspace.get(), room, &kOne, t, x.get(), &kZero, one, y.get()));
  NEED(cudnnDestroyReduceTensorDescriptor(descriptor));
  double sum = 0;
  for (float value : input) sum += value;
  auto got = y.host();
  return {got[0] == sum, hash_of(got)};
}

Result lstm() {  // forward, two layers; judged by its range and its bits
  constexpr int kBatch = 4, kTime = 6, kSize = 16, kLayers = 2;
  cudnnRNNDescriptor_t rnn;
  cudnnDropoutDescriptor_t none;
  cudnnRNNDataDescriptor_t data;
  cudnnTensorDescriptor_t hidden;
  size_t weight_bytes = 0, workspace_bytes = 0, reserve_bytes = 0;
  NEED(cudnnCreateDropoutDescriptor(&none));
  NEED(cudnnSetDropoutDescriptor(none, g_dnn, 0, nullptr, 0, 0));
  NEED(cudnnCreateRNNDescriptor(&rnn));
  NEED(cudnnSetRNNDescriptor_v8(rnn, CUDNN_RNN_ALGO_STANDARD, CUDNN_LSTM, CUDNN_RNN_DOUBLE_BIAS, CUDNN_UNIDIRECTIONAL, CUDNN_LINEAR_INPUT, CUDNN_DATA_FLOAT,
                                CUDNN_DATA_FLOAT, CUDNN_DEFAULT_MATH, kSize, kSize, kSize, kLayers, none, CUDNN_RNN_PADDED_IO_DISABLED));
  std::vector<int> lengths(kBatch, kTime);
  float padding = 0;
  NEED(cudnnCreateRNNDataDescriptor(&data));
  NEED(cudnnSetRNNDataDescriptor(data, CUDNN_DATA_FLOAT, CUDNN_RNN_DATA_LAYOUT_SEQ_MAJOR_PACKED, kTime, kBatch, kSize, lengths.data(), &padding));
  int shape[3] = {kLayers, kBatch, kSize}, strides[3] = {kBatch * kSize, kSize, 1};
  NEED(cudnnCreateTensorDescriptor(&hidden));
  NEED(cudnnSetTensorNdDescriptor(hidden, CUDNN_DATA_FLOAT, 3, shape, strides));
  NEED(cudnnGetRNNWeightSpaceSize(g_dnn, rnn, &weight_bytes));
  NEED(cudnnGetRNNTempSpaceSizes(g_dnn, rnn, CUDNN_FWD_MODE_INFERENCE, data, &workspace_bytes, &reserve_bytes));
  auto weights = whole_numbers<float>(weight_bytes / sizeof(float), 10, 11);
  for (auto& weight : weights) weight *= 0.05f;
  DeviceArray<float> w(weights), x(whole_numbers<float>(kTime * kBatch * kSize, 11, 5)), y(kTime * kBatch * kSize);
  DeviceArray<int> device_lengths(lengths);
  DeviceArray<char> workspace(workspace_bytes + 1);
  NEED(cudnnRNNForward(g_dnn, rnn, CUDNN_FWD_MODE_INFERENCE, device_lengths.get(), data, x.get(), data, y.get(), hidden, nullptr, nullptr, hidden, nullptr, nullptr,
                       weight_bytes, w.get(), workspace_bytes, workspace.get(), 0, nullptr));
  auto got = y.host();
  bool right = false;
  for (float value : got) right |= value != 0;
  for (float value : got) right &= std::fabs(value) < 1;
  return {right, hash_of(got)};
}

}  // namespace

int main() {
  run_case("create", [] { return NEED(cudnnCreate(&g_dnn)), Result{true}; });
  run_case("convolution, implicit gemm", [] { return forward(CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, CUDNN_FMA_MATH); });
  run_case("convolution, precomputed gemm", [] { return forward(CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, CUDNN_FMA_MATH); });
  run_case("convolution, tensor cores", [] { return forward(CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION); });
  run_case("convolution, gradient of the input", backward_data);
  run_case("convolution, gradient of the filter", backward_filter);
  run_case("max pooling and its gradient", pooling);
  run_case("softmax", softmax);
  run_case("sigmoid", [] { return activation(CUDNN_ACTIVATION_SIGMOID, [](double x) { return 1 / (1 + std::exp(-x)); }); });
  run_case("tanh", [] { return activation(CUDNN_ACTIVATION_TANH, [](double x) { return std::tanh(x); }); });
  run_case("batch normalisation", batch_normalisation);
  run_case("dropout", dropout);
  run_case("reduction", reduction);
  run_case("lstm", lstm);
  return cudnnDestroy(g_dnn);
}
