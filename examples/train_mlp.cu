// Trains a small neural network in plain CUDA: two interleaved spirals of points, a multilayer perceptron
// (2-64-64-1, tanh), backpropagation and stochastic gradient descent with momentum, all in four kernels below. The loss
// of every epoch is printed and falls; at the end the program draws what the network has learned. Nothing is summed in
// an order that may change, so two runs on one GPU print the same.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "check.h"

constexpr int kSamples = 2048, kBatch = 64, kEpochs = 30;
constexpr int kHidden = 64;
constexpr float kRate = 0.04f, kMomentum = 0.9f;

// output = activation(input * weights + bias): one thread per (sample, unit). Row `in` of weights is the bias.
__global__ void forward(const float* input, const float* weights, float* output, int batch, int in, int out,
                        bool last) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= batch * out) return;
  int sample = i / out, unit = i % out;
  float sum = weights[in * out + unit];
  for (int k = 0; k < in; k++) sum += input[sample * in + k] * weights[k * out + unit];
  output[i] = last ? 1 / (1 + expf(-sum)) : tanhf(sum);
}

// Cross entropy of every sample and the gradient at the last layer's sum.
__global__ void judge(const float* output, const float* label, float* gradient, float* loss, int batch) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= batch) return;
  float p = fminf(fmaxf(output[i], 1e-6f), 1 - 1e-6f);
  loss[i] = -(label[i] * logf(p) + (1 - label[i]) * logf(1 - p));
  gradient[i] = (output[i] - label[i]) / batch;
}

// Gradient at the sums of the layer below, whose tanh gave `input`: one thread per (sample, unit below).
__global__ void backward(const float* gradient, const float* weights, const float* input, float* below, int batch,
                         int in, int out) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= batch * in) return;
  int sample = i / in, unit = i % in;
  float sum = 0;
  for (int k = 0; k < out; k++) sum += gradient[sample * out + k] * weights[unit * out + k];
  below[i] = sum * (1 - input[i] * input[i]);
}

// One step of gradient descent: one thread per weight.
__global__ void descend(const float* input, const float* gradient, float* weights, float* velocity, int batch, int in,
                        int out) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (in + 1) * out) return;
  int k = i / out, unit = i % out;
  float sum = 0;
  for (int s = 0; s < batch; s++) sum += (k < in ? input[s * in + k] : 1.0f) * gradient[s * out + unit];
  velocity[i] = kMomentum * velocity[i] - kRate * sum;
  weights[i] += velocity[i];
}

static float* device_floats(size_t count) {
  float* memory;
  CHECK(cudaMalloc(&memory, count * sizeof(float)));
  CHECK(cudaMemset(memory, 0, count * sizeof(float)));
  return memory;
}

// A repeatable random number in [-1, 1).
static float random_float() {
  static unsigned state = 12345;
  state = state * 1664525u + 1013904223u;
  return float(state >> 8) / float(1 << 23) - 1;
}

struct Layer {
  int in, out;
  float *weights, *velocity, *output, *gradient;

  Layer(int in, int out) : in(in), out(out) {
    int count = (in + 1) * out;
    weights = device_floats(count);
    velocity = device_floats(count);
    output = device_floats(kSamples * out);
    gradient = device_floats(kBatch * out);
    std::vector<float> start(count);
    for (float& w : start) w = random_float() * 1.7f / std::sqrt(float(in));
    CHECK(cudaMemcpy(weights, start.data(), count * sizeof(float), cudaMemcpyHostToDevice));
  }
};

static int blocks(int threads) { return (threads + 127) / 128; }

struct Network {
  std::vector<Layer> layers{{2, kHidden}, {kHidden, kHidden}, {kHidden, 1}};

  void run(const float* input, int batch) {
    for (auto& layer : layers) {
      forward<<<blocks(batch * layer.out), 128>>>(input, layer.weights, layer.output, batch, layer.in, layer.out,
                                                  layer.out == 1);
      input = layer.output;
    }
  }

  void train(const float* input, const float* label, float* loss, int batch) {
    run(input, batch);
    judge<<<blocks(batch), 128>>>(layers.back().output, label, layers.back().gradient, loss, batch);
    for (size_t i = layers.size(); i-- > 0;) {
      Layer& layer = layers[i];
      const float* below = i > 0 ? layers[i - 1].output : input;
      if (i > 0) {
        backward<<<blocks(batch * layer.in), 128>>>(layer.gradient, layer.weights, below, layers[i - 1].gradient, batch,
                                                    layer.in, layer.out);
      }
      descend<<<blocks((layer.in + 1) * layer.out), 128>>>(below, layer.gradient, layer.weights, layer.velocity, batch,
                                                           layer.in, layer.out);
    }
  }
};

// Colours a map of the plane with the network's answer at every point.
static void draw(Network& network, float* device_points) {
  const int width = 48, height = 21;
  std::vector<float> points, answer(width * height);
  for (int y = 0; y < height; y++) {
    for (int x = 0; x < width; x++) {
      points.push_back(2.2f * x / (width - 1) - 1.1f);
      points.push_back(1.1f - 2.2f * y / (height - 1));
    }
  }
  CHECK(cudaMemcpy(device_points, points.data(), points.size() * sizeof(float), cudaMemcpyHostToDevice));
  network.run(device_points, width * height);
  CHECK(cudaMemcpy(answer.data(), network.layers.back().output, answer.size() * sizeof(float), cudaMemcpyDeviceToHost));
  for (int y = 0; y < height; y++) {
    std::string line = "  ";
    for (int x = 0; x < width; x++) line += answer[y * width + x] > 0.5f ? '#' : '.';
    std::printf("%s\n", line.c_str());
  }
}

int main() {
  std::vector<float> points(2 * kSamples), labels(kSamples), losses(kSamples), answers(kSamples);
  for (int i = 0; i < kSamples; i++) {
    labels[i] = float(i % 2);
    float along = (random_float() + 1) / 2;
    float radius = 0.1f + 0.9f * along, angle = 7.5f * along + 3.14159265f * labels[i];
    points[2 * i] = radius * std::cos(angle) + 0.04f * random_float();
    points[2 * i + 1] = radius * std::sin(angle) + 0.04f * random_float();
  }
  float* device_points = device_floats(points.size());
  float* device_labels = device_floats(kSamples);
  float* device_losses = device_floats(kSamples);
  CHECK(cudaMemcpy(device_points, points.data(), points.size() * sizeof(float), cudaMemcpyHostToDevice));
  CHECK(cudaMemcpy(device_labels, labels.data(), kSamples * sizeof(float), cudaMemcpyHostToDevice));

  Network network;
  std::printf("training a 2-%d-%d-1 network on %d points of two spirals\n", kHidden, kHidden, kSamples);
  double first = 0, loss = 0;
  for (int epoch = 1; epoch <= kEpochs; epoch++) {
    for (int s = 0; s < kSamples; s += kBatch)
      network.train(device_points + 2 * s, device_labels + s, device_losses + s, kBatch);
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpy(losses.data(), device_losses, kSamples * sizeof(float), cudaMemcpyDeviceToHost));
    loss = 0;
    for (float l : losses) loss += l / kSamples;
    if (epoch == 1) first = loss;
    std::printf("epoch %2d  loss %.4f  %s\n", epoch, loss, std::string(size_t(std::min(loss, 1.0) * 60), '=').c_str());
    std::fflush(stdout);
  }

  network.run(device_points, kSamples);
  CHECK(cudaMemcpy(answers.data(), network.layers.back().output, kSamples * sizeof(float), cudaMemcpyDeviceToHost));
  int right = 0;
  for (int i = 0; i < kSamples; i++) right += (answers[i] > 0.5f) == (labels[i] > 0.5f);
  std::printf("%d of %d points classified correctly; what the network sees:\n", right, kSamples);
  draw(network, device_points);
  return loss < first / 4 ? 0 : 1;
}
