// Counts instructions of TFLM's and CMSIS-NN's kernels on an emulated Cortex-M4F; kernels.py builds and runs this.
//
// One line a kernel: name, shapes, units of work (MACs or elements), outputs, ticks of SysTick. Where two
// implementations of one operator are at hand, their results are compared too.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "arm_nnfunctions.h"
#include "common.h"
#include "reference/add.h"
#include "reference/concatenation.h"
#include "reference/integer_ops/add.h"
#include "reference/integer_ops/conv.h"
#include "reference/integer_ops/depthwise_conv.h"
#include "reference/integer_ops/l2normalization.h"
#include "reference/integer_ops/logistic.h"
#include "reference/integer_ops/mul.h"
#include "reference/integer_ops/tanh.h"
#include "reference/pad.h"
#include "reference/reduce.h"
#include "reference/requantize.h"
#include "reference/slice.h"
#include "reference/softmax.h"
#include "reference/sub.h"
#include "reference/transpose.h"

// TFLM's namespace, from before and after its names moved, and that of a distribution which renames it.
namespace tflite {
namespace micro {}
}  // namespace tflite
namespace tflite_micro {}
using namespace tflite;
using namespace tflite::micro;
using namespace tflite_micro;

// In TFLM no kernel knows its shapes, scales or buffers when it is compiled; what is inlined here must not either.
#define OPAQUE __attribute__((noipa))

namespace {
constexpr int kLargest = 1 << 17;
alignas(8) int8_t bytes[4][kLargest];
alignas(8) int16_t words[4][kLargest];
}  // namespace

// Two inputs, an output, and what it should be. Not const and not of this file alone, hence unknown to the compiler.
int8_t *a8 = bytes[0], *b8 = bytes[1], *c8 = bytes[2], *d8 = bytes[3];
int16_t *a16 = words[0], *b16 = words[1], *c16 = words[2], *d16 = words[3];
int zero_point = 3, one = 1, two = 2;

namespace {

int32_t bias32[256];
int64_t bias64[256];

volatile uint32_t* const kControl = reinterpret_cast<uint32_t*>(0xE000E010);
volatile uint32_t* const kReload = reinterpret_cast<uint32_t*>(0xE000E014);
volatile uint32_t* const kValue = reinterpret_cast<uint32_t*>(0xE000E018);

template <class Work>
void Measure(const char* name, const char* shapes, int64_t units, int64_t outputs, Work work) {
  // Many times, since a tick is dozens of instructions; few enough that the counter's 24 bits do not wrap twice.
  const int repeats = static_cast<int>(std::max<int64_t>(1, 400000 / units));
  const uint32_t start = *kValue;
  for (int i = 0; i < repeats; ++i) work();
  const uint32_t ticks = (start - *kValue) & 0xFFFFFF;
  printf("%s|%s|%lld|%lld|%lu\n", name, shapes, static_cast<long long>(units * repeats),
         static_cast<long long>(outputs * repeats), static_cast<unsigned long>(ticks));
}

// "ADD" to "ADD int8".
template <class T>
const char* Named(const char* op) {
  static char name[40];
  snprintf(name, sizeof(name), "%s int%d", op, static_cast<int>(8 * sizeof(T)));
  return name;
}

template <class T>
void Equal(const char* name, const T* found, const T* expected, int size) {
  for (int i = 0; i < size; ++i) {
    if (found[i] != expected[i]) {
      printf("%s: element %d is %d, expected %d\n", name, i, found[i], expected[i]);
      exit(1);
    }
  }
}

// About normal: the sum of four uniform values has a kurtosis of 2.7.
float Normal() {
  static uint32_t state = 1;
  float sum = 0;
  for (int i = 0; i < 4; ++i) {
    state = state * 1664525 + 1013904223;
    sum += static_cast<float>(state >> 8) / (1 << 24) - 0.5f;
  }
  return sum * 1.732f;
}

OPAQUE RuntimeShape Shape(std::initializer_list<int32_t> sizes) {
  return RuntimeShape(static_cast<int>(sizes.size()), sizes.begin());
}

template <class T>
void Fill(T* data, int size, float deviation) {
  const float low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
  for (int i = 0; i < size; ++i) data[i] = static_cast<T>(std::min(std::max(Normal() * deviation, low), high));
}

// real = multiplier / 2**31 * 2**shift, the multiplier in [2**30, 2**31).
struct Scale {
  OPAQUE explicit Scale(double real) {
    int exponent;
    multiplier = static_cast<int32_t>(std::frexp(real, &exponent) * (1LL << 31));
    shift = exponent;
  }
  int32_t multiplier;
  int shift;
};

OPAQUE void Softmax8(const char* shapes, int rows, int depth, float scale, float deviation) {
  const int size = rows * depth;
  Fill(a8, size, deviation / scale);
  const Scale input(scale * (1 << 26));  // Q5.26
  SoftmaxParams params{};
  params.input_multiplier = input.multiplier;
  params.input_left_shift = input.shift;
  params.diff_min = -static_cast<int>(std::floor(31.0 * (1 << 26) / (1LL << input.shift)));
  Measure("SOFTMAX int8", shapes, size, size,
          [&] { arm_softmax_s8(a8, rows, depth, input.multiplier, input.shift, params.diff_min, c8); });
  const RuntimeShape shape = Shape({rows, depth});
  reference_ops::Softmax(params, shape, a8, shape, d8);
  Equal("SOFTMAX int8", c8, d8, size);
}

OPAQUE void Softmax16(const char* shapes, int rows, int depth, float scale, float deviation) {
  static int16_t exp_table[513], reciprocal_table[513];
  LUTPopulate<int16_t>(10.0f / 65535, 32767, 2.0f / 65535, 0, [](float x) { return std::exp(x); }, exp_table);
  LUTPopulate<int16_t>(1.0f / 65535, -32768, 2.0f / 65535, 0, [](float x) { return 1 / (1 + x); }, reciprocal_table);
  const int size = rows * depth;
  Fill(a16, size, deviation / scale);
  const Scale input(scale / (10.0 / 65535));
  const cmsis_nn_softmax_lut_s16 tables{exp_table, reciprocal_table};
  Measure("SOFTMAX int16", shapes, size, size,
          [&] { arm_softmax_s16(a16, rows, depth, input.multiplier, input.shift, &tables, c16); });
  SoftmaxParams params{};
  params.input_multiplier = input.multiplier;
  params.input_left_shift = input.shift;
  params.exp_lut = exp_table;
  params.one_over_one_plus_x_lut = reciprocal_table;
  const RuntimeShape shape = Shape({rows, depth});
  reference_ops::SoftmaxInt16(params, shape, a16, shape, d16);
  Equal("SOFTMAX int16", c16, d16, size);
}

// What a product should be: rows of `left` with rows of `right`.
template <class T, class U, class Sum>
void Product(const T* left, const U* right, T* out, int batch, int rows, int columns, int depth, int left_offset,
             int right_offset, Scale scale, int out_offset, bool shared) {
  const int low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
  for (int b = 0; b < batch; ++b) {
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < columns; ++j) {
        Sum sum = 0;
        for (int k = 0; k < depth; ++k) {
          sum += (left[(b * rows + i) * depth + k] + left_offset) *
                 (right[((shared ? 0 : b) * columns + j) * depth + k] + right_offset);
        }
        const int32_t value = MultiplyByQuantizedMultiplier(sum, scale.multiplier, scale.shift) + out_offset;
        *out++ = static_cast<T>(std::min(std::max<int>(value, low), high));
      }
    }
  }
}

OPAQUE void FullyConnected(const char* shapes, int rows, int columns, int depth) {
  Fill(a8, rows * depth, 40);
  Fill(b8, columns * depth, 40);
  Fill(a16, rows * depth, 10000);
  const Scale scale(1.0 / (40 * std::sqrt(depth)));
  const cmsis_nn_context context{};
  cmsis_nn_fc_params params{};
  params.input_offset = 3;
  params.output_offset = -5;
  params.activation = {-128, 127};
  const cmsis_nn_per_tensor_quant_params quant{scale.multiplier, scale.shift};
  const cmsis_nn_dims in{rows, 1, 1, depth}, filter{depth, 1, 1, columns}, bias{1, 1, 1, columns},
      out{rows, 1, 1, columns};
  const int64_t outputs = rows * columns;
  Measure("FULLY_CONNECTED int8", shapes, outputs * depth, outputs, [&] {
    arm_fully_connected_s8(&context, &params, &quant, &in, a8, &filter, b8, &bias, bias32, &out, c8);
  });
  Product<int8_t, int8_t, int32_t>(a8, b8, d8, 1, rows, columns, depth, 3, 0, scale, -5, true);
  Equal("FULLY_CONNECTED int8", c8, d8, outputs);
  params.input_offset = params.output_offset = 0;
  params.activation = {-32768, 32767};
  Measure("FULLY_CONNECTED int16", shapes, outputs * depth, outputs, [&] {
    arm_fully_connected_s16(&context, &params, &quant, &in, a16, &filter, b8, &bias, bias64, &out, c16);
  });
  Product<int16_t, int8_t, int64_t>(a16, b8, d16, 1, rows, columns, depth, 0, 0, scale, 0, true);
  Equal("FULLY_CONNECTED int16", c16, d16, outputs);
}

// A linear layer of rows that are the pixels of an image.
OPAQUE void Pointwise(const char* shapes, int rows, int columns, int depth) {
  static int32_t multipliers[128], shifts[128];
  Fill(a8, rows * depth, 40);
  Fill(b8, columns * depth, 40);
  const Scale scale(1.0 / (40 * std::sqrt(depth)));
  std::fill_n(multipliers, columns, scale.multiplier);
  std::fill_n(shifts, columns, scale.shift);
  const cmsis_nn_context context{};
  const cmsis_nn_per_channel_quant_params quant{multipliers, shifts};
  const cmsis_nn_conv_params params{3, -5, {1, 1}, {0, 0}, {1, 1}, {-128, 127}};
  const cmsis_nn_dims in{1, 1, rows, depth}, filter{columns, 1, 1, depth}, bias{1, 1, 1, columns},
      out{1, 1, rows, columns};
  const int64_t outputs = rows * columns;
  Measure("CONV_2D 1 x 1 int8", shapes, outputs * depth, outputs, [&] {
    arm_convolve_1x1_s8_fast(&context, &params, &quant, &in, a8, &filter, b8, &bias, bias32, &out, c8);
  });
  Product<int8_t, int8_t, int32_t>(a8, b8, d8, 1, rows, columns, depth, 3, 0, scale, -5, true);
  Equal("CONV_2D 1 x 1 int8", c8, d8, outputs);
  alignas(8) static int16_t scratch[1024];
  const cmsis_nn_context roomy{scratch, sizeof(scratch)};
  const cmsis_nn_conv_params params16{0, 0, {1, 1}, {0, 0}, {1, 1}, {-32768, 32767}};
  const cmsis_nn_bias_data bias16{bias64, false};
  Fill(a16, rows * depth, 10000);
  Measure("CONV_2D 1 x 1 int16", shapes, outputs * depth, outputs, [&] {
    arm_convolve_s16(&roomy, &params16, &quant, &in, a16, &filter, b8, &bias, &bias16, &out, c16);
  });
  Product<int16_t, int8_t, int64_t>(a16, b8, d16, 1, rows, columns, depth, 0, 0, scale, 0, true);
  Equal("CONV_2D 1 x 1 int16", c16, d16, outputs);
}

OPAQUE void BatchMatmul(const char* shapes, int batch, int rows, int columns, int depth) {
  Fill(a8, batch * rows * depth, 40);
  Fill(b8, batch * columns * depth, 40);
  Fill(a16, batch * rows * depth, 10000);
  Fill(b16, batch * columns * depth, 10000);
  const Scale scale8(1.0 / (40 * std::sqrt(depth))), scale16(1.0 / (10000 * std::sqrt(depth)));
  const cmsis_nn_context context{};
  const cmsis_nn_dims left{1, batch, rows, depth}, right{1, batch, columns, depth}, out{1, batch, rows, columns};
  const int64_t outputs = batch * rows * columns;
  const cmsis_nn_per_tensor_quant_params quant8{scale8.multiplier, scale8.shift};
  const cmsis_nn_bmm_params params8{false, true, {3, 2, -5, {-128, 127}}};
  Measure("BATCH_MATMUL int8", shapes, outputs * depth, outputs,
          [&] { arm_batch_matmul_s8(&context, &params8, &quant8, &left, a8, &right, b8, &out, c8); });
  Product<int8_t, int8_t, int32_t>(a8, b8, d8, batch, rows, columns, depth, 3, 2, scale8, -5, false);
  Equal("BATCH_MATMUL int8", c8, d8, outputs);
  const cmsis_nn_per_tensor_quant_params quant16{scale16.multiplier, scale16.shift};
  const cmsis_nn_bmm_params params16{false, true, {0, 0, 0, {-32768, 32767}}};
  Measure("BATCH_MATMUL int16", shapes, outputs * depth, outputs,
          [&] { arm_batch_matmul_s16(&context, &params16, &quant16, &left, a16, &right, b16, &out, c16); });
  Product<int16_t, int16_t, int64_t>(a16, b16, d16, batch, rows, columns, depth, 0, 0, scale16, 0, false);
  Equal("BATCH_MATMUL int16", c16, d16, outputs);
}

// Of a kernel of three by three and strides of two, without padding: on [1, height, width, channels] to `wanted`
// channels; depthwise where there is one channel.
OPAQUE void Convolution(const char* shapes, int height, int width, int channels, int wanted) {
  alignas(8) static int16_t scratch[1024];
  static int32_t multipliers[32], shifts[32];
  const bool depthwise = channels == 1;
  const char* op = depthwise ? "DEPTHWISE_CONV_2D" : "CONV_2D";
  const int rows = (height - 3) / 2 + 1, columns = (width - 3) / 2 + 1, outputs = rows * columns * wanted;
  Fill(a8, height * width * channels, 40);
  Fill(a16, height * width * channels, 10000);
  Fill(b8, 9 * channels * wanted, 40);
  for (int i = 0; i < wanted; ++i) {
    const Scale scale((0.5 + 0.05 * i) / (120 * std::sqrt(channels)));
    multipliers[i] = scale.multiplier;
    shifts[i] = scale.shift;
  }
  const cmsis_nn_context context{scratch, sizeof(scratch)};
  const cmsis_nn_per_channel_quant_params quant{multipliers, shifts};
  const cmsis_nn_dims in{1, height, width, channels}, bias{1, 1, 1, wanted}, out{1, rows, columns, wanted};
  if (depthwise) {
    const cmsis_nn_dims filter{1, 3, 3, wanted};
    const cmsis_nn_dw_conv_params params8{3, -5, wanted, {2, 2}, {0, 0}, {1, 1}, {-128, 127}};
    const cmsis_nn_dw_conv_params params16{0, 0, wanted, {2, 2}, {0, 0}, {1, 1}, {-32768, 32767}};
    Measure(Named<int8_t>(op), shapes, outputs * 9, outputs, [&] {
      arm_depthwise_conv_s8(&context, &params8, &quant, &in, a8, &filter, b8, &bias, bias32, &out, c8);
    });
    Measure(Named<int16_t>(op), shapes, outputs * 9, outputs, [&] {
      arm_depthwise_conv_s16(&context, &params16, &quant, &in, a16, &filter, b8, &bias, bias64, &out, c16);
    });
    // With the same weights, which lie in another order then.
    const cmsis_nn_dims whole{wanted, 3, 3, 1};
    const cmsis_nn_conv_params params{0, 0, {2, 2}, {0, 0}, {1, 1}, {-32768, 32767}};
    const cmsis_nn_bias_data bias16{bias64, false};
    Measure("CONV_2D as one, int16", shapes, outputs * 9, outputs, [&] {
      arm_convolve_s16(&context, &params, &quant, &in, a16, &whole, b8, &bias, &bias16, &out, d16);
    });
  } else {
    const cmsis_nn_dims filter{wanted, 3, 3, channels};
    const cmsis_nn_conv_params params8{3, -5, {2, 2}, {0, 0}, {1, 1}, {-128, 127}};
    const cmsis_nn_conv_params params16{0, 0, {2, 2}, {0, 0}, {1, 1}, {-32768, 32767}};
    const cmsis_nn_bias_data bias16{bias64, false};
    Measure(Named<int8_t>(op), shapes, outputs * 9 * channels, outputs, [&] {
      arm_convolve_s8(&context, &params8, &quant, &in, a8, &filter, b8, &bias, bias32, nullptr, &out, c8);
    });
    Measure(Named<int16_t>(op), shapes, outputs * 9 * channels, outputs, [&] {
      arm_convolve_s16(&context, &params16, &quant, &in, a16, &filter, b8, &bias, &bias16, &out, c16);
    });
  }
  const RuntimeShape input = Shape({1, height, width, channels}), output = Shape({1, rows, columns, wanted});
  // The fields that both kinds of convolution have.
  const auto set = [](auto& params, int input_offset, int output_offset, int low, int high) {
    params.stride_width = params.stride_height = 2;
    params.dilation_width_factor = params.dilation_height_factor = 1;
    params.input_offset = input_offset;
    params.output_offset = output_offset;
    params.quantized_activation_min = low;
    params.quantized_activation_max = high;
  };
  if (depthwise) {
    DepthwiseParams params{};
    params.depth_multiplier = static_cast<int16_t>(wanted);
    const RuntimeShape filter = Shape({1, 3, 3, wanted});
    set(params, 3, -5, -128, 127);
    reference_integer_ops::DepthwiseConvPerChannel(params, multipliers, shifts, input, a8, filter, b8, Shape({wanted}),
                                                   bias32, output, d8);
    set(params, 0, 0, -32768, 32767);
    reference_integer_ops::DepthwiseConvPerChannel(params, multipliers, shifts, input, a16, filter, b8, Shape({wanted}),
                                                   bias64, output, d16);
  } else {
    ConvParams params{};
    const RuntimeShape filter = Shape({wanted, 3, 3, channels});
    set(params, 3, -5, -128, 127);
    reference_integer_ops::ConvPerChannel(params, multipliers, shifts, input, a8, filter, b8, Shape({wanted}), bias32,
                                          output, d8);
    set(params, 0, 0, -32768, 32767);
    reference_integer_ops::ConvPerChannel(params, multipliers, shifts, input, a16, filter, b8, Shape({wanted}), bias64,
                                          output, d16);
  }
  Equal(Named<int8_t>(op), c8, d8, outputs);
  Equal(Named<int16_t>(op), c16, d16, outputs);
}

// Of two inputs in [-6, 6] and [-4, 4], and an output in [-8, 8]. int16 has no zero points.
template <class T>
OPAQUE ArithmeticParams Arithmetic() {
  constexpr bool kWide = sizeof(T) == 2;
  constexpr int kLow = std::numeric_limits<T>::min(), kHigh = std::numeric_limits<T>::max();
  ArithmeticParams params{};
  params.left_shift = kWide ? 15 : 20;
  const double left = 12. / (kHigh - kLow), right = 8. / (kHigh - kLow), out = 16. / (kHigh - kLow);
  const double twice = 2 * std::max(left, right);
  const Scale first(left / twice), second(right / twice), last(twice / ((1 << params.left_shift) * out));
  params.input1_offset = kWide ? 0 : 3;
  params.input2_offset = kWide ? 0 : -2;
  params.output_offset = kWide ? 0 : 1;
  params.input1_multiplier = first.multiplier;
  params.input1_shift = first.shift;
  params.input2_multiplier = second.multiplier;
  params.input2_shift = second.shift;
  params.output_multiplier = last.multiplier;
  params.output_shift = last.shift;
  params.quantized_activation_min = kLow;
  params.quantized_activation_max = kHigh;
  return params;
}

// `add` and `mul` are CMSIS-NN's.
template <class T, class Add, class Mul>
OPAQUE void Elementwise(T* a, T* b, T* c, T* d, Add add, Mul mul, int rows, int width) {
  const int size = rows * width;
  const RuntimeShape shape = Shape({rows, width}), column = Shape({rows, 1}), row = Shape({1, width}),
                     scalar = Shape({1});
  Fill(a, size, std::numeric_limits<T>::max() / 3);
  Fill(b, size, std::numeric_limits<T>::max() / 3);
  const ArithmeticParams sum = Arithmetic<T>();
  Measure(Named<T>("ADD"), "[100, 64]", size, size, [&] {
    add(a, b, sum.input1_offset, sum.input1_multiplier, sum.input1_shift, sum.input2_offset, sum.input2_multiplier,
        sum.input2_shift, sum.left_shift, c, sum.output_offset, sum.output_multiplier, sum.output_shift,
        sum.quantized_activation_min, sum.quantized_activation_max, size);
  });
  reference_ops::AddElementwise(size, sum, a, b, d);
  Equal(Named<T>("ADD"), c, d, size);
  Measure(Named<T>("ADD"), "[100, 64] and [1, 64]", size, size, [&] {
    if constexpr (sizeof(T) == 1) {
      reference_integer_ops::BroadcastAdd4DSlow(sum, shape, a, row, b, shape, c);
    } else {
      reference_ops::BroadcastAdd4DSlow(sum, shape, a, row, b, shape, c);
    }
  });

  ArithmeticParams product = sum;
  const Scale scale(2.5 / std::numeric_limits<T>::max());
  product.output_multiplier = scale.multiplier;
  product.output_shift = scale.shift;
  Measure(Named<T>("MUL"), "[100, 64]", size, size, [&] {
    mul(a, b, product.input1_offset, product.input2_offset, c, product.output_offset, product.output_multiplier,
        product.output_shift, product.quantized_activation_min, product.quantized_activation_max, size);
  });
  reference_integer_ops::Mul(product, shape, a, shape, b, shape, d);
  Equal(Named<T>("MUL"), c, d, size);
  Measure(Named<T>("MUL"), "[100, 64] by a scalar", size, size,
          [&] { reference_integer_ops::BroadcastMul4DSlow(product, shape, a, scalar, b, shape, c); });
  Measure(Named<T>("MUL"), "[100, 64] by [100, 1]", size, size,
          [&] { reference_integer_ops::BroadcastMul4DSlow(product, shape, a, column, b, shape, c); });
  Measure(Named<T>("SUB"), "[100, 64]", size, size,
          [&] { reference_ops::Sub(sum, shape, a, shape, b, shape, c); });
  Measure(Named<T>("SUB"), "[100, 64] less [100, 1]", size, size,
          [&] { reference_ops::BroadcastQuantSubSlow(sum, shape, a, column, b, shape, c); });
}

OPAQUE void Requantizations(int size) {
  const Scale wide(0.04 / 0.0003), narrow(0.0003 / 0.04), near(1.3);
  Fill(a8, size, 40);
  Fill(a16, size, 10000);
  Measure("QUANTIZE int8 to int16", "[100, 64]", size, size,
          [&] { reference_ops::Requantize(a8, size, wide.multiplier, wide.shift, zero_point, 0, c16); });
  Measure("QUANTIZE int16 to int8", "[100, 64]", size, size,
          [&] { reference_ops::Requantize(a16, size, narrow.multiplier, narrow.shift, 0, zero_point, c8); });
  Measure("QUANTIZE int16", "[100, 64]", size, size,
          [&] { reference_ops::Requantize(a16, size, near.multiplier, near.shift, 0, 0, c16); });
  // TFLM's kernel is in no header: here is what it does.
  Measure("CAST int8 to int16", "[100, 64]", size, size, [&] {
    std::transform(a8, a8 + size, c16, [](int8_t value) { return static_cast<int16_t>(value); });
  });
}

OPAQUE void Activations(int size) {
  const RuntimeShape shape = Shape({size});
  Fill(a8, size, 40);
  Fill(a16, size, 8000);
  const Scale input(0.04 * (1 << 27));  // Q4.27, as both kernels take it
  const int radius = static_cast<int>(std::floor(15.0 * (1 << 27) / (1LL << input.shift)));
  Measure("LOGISTIC int8", "[100, 128]", size, size, [&] {
    reference_integer_ops::Logistic(zero_point, radius, input.multiplier, input.shift, size, a8, c8);
  });
  Measure("TANH int8", "[100, 128]", size, size, [&] {
    reference_integer_ops::Tanh(zero_point, radius, input.multiplier, input.shift, shape, a8, shape, c8);
  });
  Measure("LOGISTIC int16", "[100, 128]", size, size,
          [&] { reference_integer_ops::Logistic(0, zero_point, size, a16, c16); });
  Measure("TANH int16", "[100, 128]", size, size,
          [&] { reference_integer_ops::Tanh(0, zero_point, shape, a16, shape, c16); });
}

// TFLM's kernel is in no header: here are its steps, an element at a time.
OPAQUE void Rsqrt(int size) {
  Fill(a16, size, 8000);
  for (int i = 0; i < size; ++i) a16[i] = std::max<int16_t>(1, std::abs(a16[i]));
  const Scale scale(900);
  Measure("RSQRT int16", "[100, 1]", size, size, [&] {
    for (int i = 0; i < size; ++i) {
      int32_t multiplier;
      int shift;
      GetInvSqrtQuantizedMultiplierExp(a16[i], -1, &multiplier, &shift);
      const int32_t root = MultiplyByQuantizedMultiplier(static_cast<int32_t>(1), multiplier, shift + 20);
      const int32_t out = MultiplyByQuantizedMultiplier(root, scale.multiplier, scale.shift - 20);
      c16[i] = static_cast<int16_t>(std::min<int32_t>(std::max<int32_t>(out, -32768), 32767));
    }
  });
  for (int i = 0; i < size; ++i) {
    const double expected = std::min(900 / std::sqrt(static_cast<double>(a16[i])), 32767.);
    if (std::abs(c16[i] - expected) > 1) {
      printf("RSQRT int16: of %d is %d, expected %.1f\n", a16[i], c16[i], expected);
      exit(1);
    }
  }
}

OPAQUE void Norm(const char* shapes, int rows, int width) {
  Fill(a8, rows * width, 40);
  Measure("L2_NORMALIZATION int8", shapes, rows * width, rows * width,
          [&] { reference_integer_ops::L2Normalization(zero_point, rows, width, a8, c8); });
}

template <class T>
OPAQUE void Reduce(T* a, T* c, const char* op, const char* shapes, int rows, int width, int axis, bool sum) {
  int32_t totals[128];
  int index[2], resolved[2];
  const int dims[] = {rows, width}, out[] = {axis == 0 ? width : rows};
  const Scale scale(0.3);
  Fill(a, rows * width, std::numeric_limits<T>::max() / 3);
  Measure(Named<T>(op), shapes, rows * width, out[0], [&] {
    reference_ops::QuantizedMeanOrSum(a, zero_point, dims, two, c, scale.multiplier, scale.shift, one, out, one, &axis,
                                      one, false, index, resolved, totals, sum);
  });
}

OPAQUE void Transpose(const char* shapes, std::initializer_list<int> from, std::initializer_list<int> order) {
  const int count = static_cast<int>(from.size());
  int32_t dims[4] = {}, to[4] = {};
  uint32_t permutation[4];
  TransposeParams params{};
  params.perm_count = static_cast<int8_t>(count);
  int size = 1;
  for (int i = 0; i < count; ++i) {
    dims[i] = from.begin()[i];
    permutation[i] = params.perm[i] = order.begin()[i];
    to[i] = from.begin()[permutation[i]];
    size *= dims[i];
  }
  Fill(a8, size, 40);
  Fill(a16, size, 10000);
  const cmsis_nn_dims in{dims[0], dims[1], dims[2], dims[3]}, out{to[0], to[1], to[2], to[3]};
  const cmsis_nn_transpose_params cmsis{count, permutation};
  Measure("TRANSPOSE int8", shapes, size, size, [&] { arm_transpose_s8(a8, c8, &in, &out, &cmsis); });
  const RuntimeShape before(count, dims), after(count, to);
  reference_ops::Transpose(params, before, a8, after, d8);
  Equal("TRANSPOSE int8", c8, d8, size);
  Measure("TRANSPOSE int16", shapes, size, size, [&] { reference_ops::Transpose(params, before, a16, after, c16); });
}

template <class T>
OPAQUE void Slice(const T* a, T* c, const char* shapes, std::initializer_list<int32_t> from,
                  std::initializer_list<int32_t> begin, std::initializer_list<int32_t> size) {
  SliceParams params{};
  params.begin_count = params.size_count = static_cast<int8_t>(size.size());
  std::copy(begin.begin(), begin.end(), params.begin);
  std::copy(size.begin(), size.end(), params.size);
  const RuntimeShape whole = Shape(from), part = Shape(size);
  Measure(Named<T>("SLICE"), shapes, part.FlatSize(), part.FlatSize(),
          [&] { reference_ops::Slice(params, whole, a, part, c); });
}

template <class T>
OPAQUE void Concatenation(const T* a, const T* b, T* c, const char* shapes, int axis,
                          std::initializer_list<int32_t> part, std::initializer_list<int32_t> whole) {
  ConcatenationParams params{};
  params.axis = static_cast<int8_t>(axis);
  params.inputs_count = static_cast<uint16_t>(two);
  const RuntimeShape half = Shape(part), out = Shape(whole);
  const RuntimeShape* inputs[] = {&half, &half};
  const T* data[] = {a, b};
  Measure(Named<T>("CONCATENATION"), shapes, out.FlatSize(), out.FlatSize(),
          [&] { reference_ops::Concatenation(params, inputs, data, out, c); });
}

template <class T>
OPAQUE void Reshape(const T* a, T* c, const char* shapes, int size) {
  Measure(Named<T>("RESHAPE"), shapes, size, size, [&] { memcpy(c, a, size * sizeof(T)); });
}

// [rows, width] with some rows and columns behind.
OPAQUE void Pad(const char* shapes, int rows, int width, int more_rows, int more_columns) {
  const cmsis_nn_dims in{1, 1, rows, width}, none{}, after{0, 0, more_rows, more_columns};
  const RuntimeShape before = Shape({rows, width}), padded = Shape({rows + more_rows, width + more_columns});
  const int size = padded.FlatSize();
  PadParams params{};
  params.left_padding_count = params.right_padding_count = 2;
  params.right_padding[0] = more_rows;
  params.right_padding[1] = more_columns;
  const int8_t low = 1;
  const int16_t zero = 0;
  Measure("PAD int8", shapes, size, size, [&] { arm_pad_s8(a8, c8, low, &in, &none, &after); });
  reference_ops::Pad(params, before, a8, &low, padded, d8);
  Equal("PAD int8", c8, d8, size);
  Measure("PAD int16", shapes, size, size, [&] { reference_ops::Pad(params, before, a16, &zero, padded, c16); });
}

// What moves numbers and changes none.
template <class T>
void Movements(const T* a, const T* b, T* c) {
  Slice(a, c, "[4, 50, 16] of [4, 100, 16]", {4, 100, 16}, {0, 50, 0}, {4, 50, 16});
  Slice(a, c, "[100, 64] of [100, 65]", {100, 65}, {0, 0}, {100, 64});
  Slice(a, c, "[2, 19800] of [2, 19900]", {2, 19900}, {0, 0}, {2, 19800});
  Concatenation(a, b, c, "two [4, 50, 16] on axis 1", 1, {4, 50, 16}, {4, 100, 16});
  Concatenation(a, b, c, "two [100, 24] on axis 1", 1, {100, 24}, {100, 48});
  Reshape(a, c, "[100, 64]", 6400);
}

}  // namespace

int main() {
  *kReload = 0xFFFFFF;
  *kValue = 0;
  *kControl = 5;  // on, at the processor's clock
  Measure("loop of two instructions", "", 1000000, 0, [] {
    int count = 1000000;
    __asm volatile("1: subs %0, #1\n bne 1b" : "+r"(count)::"cc");
  });

  Softmax8("[4, 50, 100]", 200, 100, 0.05f, 1.5f);
  Softmax8("[4, 50, 100], scores ten times as wide", 200, 100, 0.5f, 15);
  Softmax8("[80, 8, 9]", 640, 9, 0.05f, 1.5f);
  Softmax16("[4, 50, 100]", 200, 100, 0.0002f, 1.5f);
  Softmax16("[80, 8, 9]", 640, 9, 0.0002f, 1.5f);
  FullyConnected("[100, 64] by [64, 64]", 100, 64, 64);
  FullyConnected("[100, 64] by [128, 64]", 100, 128, 64);
  FullyConnected("[100, 128] by [64, 128]", 100, 64, 128);
  FullyConnected("[100, 48] by [24, 48]", 100, 24, 48);
  FullyConnected("[100, 192] by [96, 192]", 100, 96, 192);
  Pointwise("[100, 64] by [64, 64]", 100, 64, 64);
  Pointwise("[100, 64] by [128, 64]", 100, 128, 64);
  Pointwise("[100, 128] by [64, 128]", 100, 64, 128);
  Pointwise("[100, 48] by [24, 48]", 100, 24, 48);
  Pointwise("[100, 192] by [96, 192]", 100, 96, 192);
  Pointwise("[100, 384] by [96, 384]", 100, 96, 384);
  Pointwise("[8, 64] by [64, 64]", 8, 64, 64);
  Pointwise("[4, 64] by [64, 64]", 4, 64, 64);
  BatchMatmul("[4, 50, 16] by [4, 100, 16]", 4, 50, 100, 16);
  BatchMatmul("[4, 50, 100] by [4, 16, 100]", 4, 50, 16, 100);
  BatchMatmul("[2, 100, 12] by [2, 199, 12]", 2, 100, 199, 12);
  Convolution("[1, 200, 64, 1] by [1, 3, 3, 8]", 200, 64, 1, 8);
  Convolution("[1, 200, 64, 1] by [1, 3, 3, 16]", 200, 64, 1, 16);
  Convolution("[1, 100, 32, 8] by [8, 3, 3, 8]", 101, 33, 8, 8);
  Convolution("[1, 100, 32, 16] by [16, 3, 3, 16]", 101, 33, 16, 16);
  Convolution("[1, 100, 32, 32] by [32, 3, 3, 32]", 101, 33, 32, 32);
  Elementwise(a8, b8, c8, d8, arm_elementwise_add_s8, arm_elementwise_mul_s8, 100, 64);
  Elementwise(a16, b16, c16, d16, arm_elementwise_add_s16, arm_elementwise_mul_s16, 100, 64);
  Requantizations(6400);
  Activations(12800);
  Rsqrt(100);
  Norm("[100, 64]", 100, 64);
  Norm("[100, 48]", 100, 48);
  Reduce(a8, c8, "SUM", "[100, 64] on axis 1", 100, 64, 1, true);
  Reduce(a8, c8, "MEAN", "[100, 64] on axis 1", 100, 64, 1, false);
  Reduce(a8, c8, "MEAN", "[100, 64] on axis 0", 100, 64, 0, false);
  Reduce(a16, c16, "SUM", "[100, 64] on axis 1", 100, 64, 1, true);
  Reduce(a16, c16, "MEAN", "[100, 64] on axis 1", 100, 64, 1, false);
  Transpose("[100, 4, 16] to [4, 100, 16]", {100, 4, 16}, {1, 0, 2});
  Transpose("[100, 4, 16] to [4, 16, 100]", {100, 4, 16}, {1, 2, 0});
  Transpose("[100, 64] to [64, 100]", {100, 64}, {1, 0});
  Transpose("[100, 8, 8, 8] to [8, 100, 8, 8]", {100, 8, 8, 8}, {2, 0, 1, 3});
  Movements(a8, b8, c8);
  Movements(a16, b16, c16);
  Pad("[100, 64] to [100, 65]", 100, 64, 0, 1);
  Pad("[100, 64] to [104, 64]", 100, 64, 4, 0);
}
