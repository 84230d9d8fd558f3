"""The three architectures at inference in float64 NumPy, written from their description and sharing no code with them.

Everything here takes one clip [T, bands] and nothing behind it: a mask means that the clip ends there, so the clips of
a batch are cut to their lengths and run one by one. Loops are plain, to be read beside the description.

`variables` are nested dicts of float64 arrays {'params', 'batch_stats'}; linear kernels are [in, out].
"""

from __future__ import annotations

import math

import numpy as np

EPSILON = 1e-5

# The spans of SpeechFormer's stages in ms, each with the stages before the utterance stage.
ATTENTION_SPANS = {'frame': 50, 'phoneme': 400, 'word': 2000}
MERGE_SPANS = {'frame': 50, 'phoneme': 250, 'word': 1000}


def conv_transformer(variables, config, x, mask=None):
    """Logits [B, classes] of x [B, T, bands], mask [B, T]."""
    return clip_by_clip(_conv_transformer, variables, config, x, mask)


def conformer(variables, config, x, mask=None):
    """Logits [B, classes] of x [B, T, bands], mask [B, T]."""
    return clip_by_clip(_conformer, variables, config, x, mask)


def speech_former(variables, config, x, mask=None):
    """Logits [B, classes] of x [B, T, bands], mask [B, T]."""
    return clip_by_clip(_speech_former, variables, config, x, mask)


def clip_by_clip(model, variables, config, x, mask):
    """The logits of every clip, cut at its length and run alone."""
    assert x.dtype == np.float64
    logits = []
    for b in range(x.shape[0]):
        clip = x[b]
        if mask is not None:
            length = int(np.sum(mask[b]))
            assert length >= 1
            assert np.all(mask[b][:length])
            clip = clip[:length]
        logits.append(model(variables, config, clip))
    return np.stack(logits)


# Parts of all three.


def linear(p, x):
    y = x @ p['kernel']
    return y + p['bias'] if 'bias' in p else y


def relu(x):
    return np.where(x > 0, x, 0.0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def swish(x):
    return x * sigmoid(x)


def layer_norm(p, x):
    """Over the last axis, with the biased variance."""
    mean = np.mean(x, axis=-1, keepdims=True)
    variance = np.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + EPSILON) * p['scale'] + p['bias']


def batch_norm(p, statistics, x):
    """Over the last axis's channels, with the running statistics."""
    return (x - statistics['mean']) / np.sqrt(statistics['var'] + EPSILON) * p['scale'] + p['bias']


def softmax(logits):
    e = np.exp(logits - np.max(logits))
    return e / np.sum(e)


def sinusoid(position, width):
    """The sinusoids [width] of one position, of either sign."""
    out = np.zeros(width)
    for column in range(width):
        i = column // 2
        angle = position * 10000.0 ** (-2 * i / width)
        out[column] = math.sin(angle) if column % 2 == 0 else math.cos(angle)
    return out


def sinusoids(length, width):
    """The absolute positions [length, width]."""
    return np.stack([sinusoid(t, width) for t in range(length)])


def heads_of(x, heads):
    """[T, width] as `heads` contiguous channel groups, each [T, width / heads]."""
    size = x.shape[-1] // heads
    return [x[..., h * size : (h + 1) * size] for h in range(heads)]


def self_attention(q, k, v, heads):
    """Scaled dot-product attention of every token to every token; the heads side by side again."""
    T, width = q.shape
    out = []
    for q_h, k_h, v_h in zip(heads_of(q, heads), heads_of(k, heads), heads_of(v, heads), strict=True):
        rows = []
        for i in range(T):
            logits = np.array([q_h[i] @ k_h[j] / math.sqrt(width / heads) for j in range(T)])
            rows.append(softmax(logits) @ v_h)
        out.append(np.stack(rows))
    return np.concatenate(out, axis=-1)


# The stem of ConvTransformer and Conformer.


def strided_conv(p, image):
    """3 x 3 at stride 2 of image [T, M, in]: row t reads rows 2t to 2t + 2, zeros behind the end; columns likewise."""
    T, M, _ = image.shape
    rows, columns = math.ceil(T / 2), math.ceil(M / 2)
    out = np.zeros((rows, columns, p['kernel'].shape[-1]))
    for t in range(rows):
        for m in range(columns):
            out[t, m] = p['bias']
            for dt in range(3):
                for dm in range(3):
                    if 2 * t + dt < T and 2 * m + dm < M:
                        out[t, m] += image[2 * t + dt, 2 * m + dm] @ p['kernel'][dt, dm]
    return out


def slope(x):
    """[T, M]: the regression slope over five frames, zeros around, the noise as large as before."""
    T = len(x)
    row = lambda t: x[t] if 0 <= t < T else 0 * x[0]
    return np.stack([sum(n * (row(t + n) - row(t - n)) for n in (1, 2)) for t in range(T)]) / math.sqrt(10)


def conv_norm(convolve, p, statistics, conv, norm, x, strided=False):
    """A convolution and its batch normalisation, or what is trained in their place: a sum of branches with norms."""
    if 'hrf' not in p[conv]:
        return batch_norm(p[norm], statistics[norm], convolve(p[conv], x))
    kernels, norms, statistics = p[conv]['hrf'], p[conv][norm], statistics[conv][norm]
    outputs = [convolve({'kernel': kernel, 'bias': 0}, x) for kernel in kernels['kernels']]
    centre = x  # what the centre of each window reads
    if strided:
        centre = np.zeros((*outputs[0].shape[:2], x.shape[-1]))
        for t in range(min(len(centre), x.shape[0] // 2)):
            for m in range(x.shape[1] // 2):
                centre[t, m] = x[2 * t + 1, 2 * m + 1]
    if 'kernel_point' in kernels:
        point = kernels['kernel_point'].reshape(kernels['kernel_point'].shape[-2:])
        outputs.append(centre @ point if strided else centre * point[0])
    channels = outputs[0].shape[-1]
    if len(outputs) * channels < len(norms['scale']):
        outputs.append(centre)
    assert len(outputs) * channels == len(norms['scale'])
    total = 0
    for n, y in enumerate(outputs):
        own = slice(n * channels, (n + 1) * channels)
        total = total + batch_norm(
            {name: leaf[own] for name, leaf in norms.items()}, {name: leaf[own] for name, leaf in statistics.items()}, y
        )
    return total


def stem(p, config, statistics, x):
    """Frames [T, M] as tokens [T / 4, width]."""
    image = x[:, :, None]
    for n in range(2):
        convolve = strided_conv
        if n == 0 and config.get('deltas'):
            around = np.pad(x, ((9, 9), (0, 0)))  # a slope goes on where the clip does not
            second = slope(slope(around)) / (math.sqrt(198) / 10)  # its taps: 4, 4, 1, -4, -10, -4, 1, 4, 4 tenths
            image = np.stack([around, slope(around), second], axis=-1)[9 : 9 + len(x) + 1 + len(x) % 2]
            convolve = lambda p, image: strided_conv(p, image)[:-1]
        image = relu(conv_norm(convolve, p, statistics, f'conv_{n}', f'conv_norm_{n}', image, strided=True))
    tokens = []
    for t in range(image.shape[0]):
        tokens.append(np.concatenate([image[t, m] for m in range(image.shape[1])]))  # the channel runs fastest
    return linear(p['project'], np.stack(tokens))


def one_hidden_head(p, config, x):
    pooled = [sum(x) / len(x)]
    if config.get('pooling') == 'statistics':
        pooled.append(np.sqrt(sum((row - pooled[0]) ** 2 for row in x) / len(x) + 1e-5))
    return linear(p['classifier'], relu(linear(p['hidden_0'], np.concatenate(pooled))))


# ConvTransformer.


def _conv_transformer(variables, config, x):
    params, statistics = variables['params'], variables['batch_stats']
    x = stem(params['stem'], config, statistics['stem'], x)
    x = x + sinusoids(*x.shape)
    for n in range(config['layers']):
        p = params[f'layer_{n}']

        a = p['attention']
        y = layer_norm(p['attention_norm'], x)
        y = self_attention(linear(a['query'], y), linear(a['key'], y), linear(a['value'], y), config['heads'])
        x = x + linear(a['out'], y)

        y = layer_norm(p['ffn_norm'], x)
        x = x + linear(p['ffn']['ffn_out'], relu(linear(p['ffn']['ffn_in'], y)))
    x = layer_norm(params['norm'], x)
    return one_hidden_head(params['head'], config, x)


# Conformer.


def relative_attention(p, x, heads):
    """Transformer-XL's: a key is met by its content, and by its signed distance i - j from the query."""
    T, width = x.shape
    q, k, v = linear(p['query'], x), linear(p['key'], x), linear(p['value'], x)
    q, k, v = heads_of(q, heads), heads_of(k, heads), heads_of(v, heads)
    distance = {m: heads_of(linear(p['position'], sinusoid(m, width)), heads) for m in range(-T + 1, T)}
    out = []
    for h in range(heads):
        rows = []
        for i in range(T):
            logits = np.zeros(T)
            for j in range(T):
                by_content = (q[h][i] + p['content_bias'][h]) @ k[h][j]
                by_position = (q[h][i] + p['position_bias'][h]) @ distance[i - j][h]
                logits[j] = (by_content + by_position) / math.sqrt(width / heads)
            rows.append(softmax(logits) @ v[h])
        out.append(np.stack(rows))
    return linear(p['out'], np.concatenate(out, axis=-1))


def depthwise_conv(p, x):
    """Every channel with its own kernel over time, centred, zeros outside."""
    T = x.shape[0]
    size = p['kernel'].shape[0]
    out = np.zeros_like(x)
    for t in range(T):
        out[t] = p['bias']
        for tap in range(size):
            source = t + tap - (size - 1) // 2
            if 0 <= source < T:
                out[t] += x[source] * p['kernel'][tap, 0]
    return out


def conformer_block(p, statistics, config, x):
    activation = {'swish': swish, 'relu': relu}[config['activation']]

    def ffn(n, x):
        y = layer_norm(p[f'ffn_{n}_norm'], x)
        return linear(p[f'ffn_{n}']['ffn_out'], activation(linear(p[f'ffn_{n}']['ffn_in'], y)))

    def attention(x):
        a = p['attention']
        y = layer_norm(p['attention_norm'], x)
        if config['positions'] == 'relative':
            return relative_attention(a, y, config['heads'])
        assert config['positions'] == 'none'
        assert set(a) == {'query', 'key', 'value', 'out'}
        y = self_attention(linear(a['query'], y), linear(a['key'], y), linear(a['value'], y), config['heads'])
        return linear(a['out'], y)

    def convolution(x):
        c = p['conv']
        y = linear(c['pointwise_in'], layer_norm(p['conv_norm'], x))
        half = y.shape[-1] // 2
        y = y[:, :half] * sigmoid(y[:, half:])
        y = activation(conv_norm(depthwise_conv, c, statistics['conv'], 'depthwise', 'batch_norm', y))
        return linear(c['pointwise_out'], y)

    x = x + ffn(0, x) / 2
    x = x + attention(x)
    x = x + convolution(x)
    return layer_norm(p['norm'], x + ffn(1, x) / 2)


def _conformer(variables, config, x):
    params, statistics = variables['params'], variables['batch_stats']
    x = stem(params['stem'], config, statistics['stem'], x)
    for n in range(config['layers']):
        x = conformer_block(params[f'layer_{n}'], statistics[f'layer_{n}'], config, x)
    return one_hidden_head(params['head'], config, x)


# SpeechFormer.


def windows_and_merges(hop_ms):
    """{stage: its attention window in tokens}, {stage: how many tokens become one behind it}."""
    windows, merges = {}, {}
    token_ms = hop_ms
    for stage in ('frame', 'phoneme', 'word'):
        window = max(1, round(ATTENTION_SPANS[stage] / token_ms))
        windows[stage] = window + 1 if window % 2 == 0 else window
        merges[stage] = max(1, round(MERGE_SPANS[stage] / token_ms))
        token_ms = token_ms * merges[stage]
    return windows, merges


def windowed_attention(q, k, v, heads, window):
    """Token i sees i - half to i + half; a slot outside the clip has logit 0 and value 0 and counts in the softmax."""
    T, width = q.shape
    half = (window - 1) // 2
    out = []
    for q_h, k_h, v_h in zip(heads_of(q, heads), heads_of(k, heads), heads_of(v, heads), strict=True):
        rows = []
        for i in range(T):
            logits, values = [], []
            for j in range(i - half, i + half + 1):
                inside = 0 <= j < T
                logits.append(q_h[i] @ k_h[j] / math.sqrt(width / heads) if inside else 0.0)
                values.append(v_h[j] if inside else np.zeros(width // heads))
            rows.append(softmax(np.array(logits)) @ np.stack(values))
        out.append(np.stack(rows))
    return np.concatenate(out, axis=-1)


def merged(p, x, size):
    """Groups of `size` tokens, the last filled up with zeros, as one token each."""
    T, width = x.shape
    groups = []
    for start in range(0, T, size):
        total = np.zeros(width)
        for t in range(start, min(start + size, T)):
            total = total + x[t]
        groups.append(total / size)
    return layer_norm(p['norm'], linear(p['project'], np.stack(groups)))


def _speech_former(variables, config, x):
    params, heads = variables['params'], config['heads']
    windows, merges = windows_and_merges(config.get('hop_ms', 10))
    x = x[:, : x.shape[1] // heads * heads]
    for s, stage in enumerate(('frame', 'phoneme', 'word', 'utterance')):
        x = layer_norm(params[f'{stage}_norm'], x)
        T, width = x.shape
        for n in range(config['layers'][s]):
            p = params[f'{stage}_{n}']

            y = x + sinusoids(T, width) if stage == 'frame' else x
            packed = linear(p['attention']['qkv'], y)
            q, k, v = packed[:, :width], packed[:, width : 2 * width], packed[:, 2 * width :]
            if stage == 'utterance':
                y = self_attention(q, k, v, heads)
            else:
                y = windowed_attention(q, k, v, heads, windows[stage])
            x = layer_norm(p['attention_norm'], x + linear(p['attention']['out'], y))

            assert p['ffn']['ffn_in']['kernel'].shape == (width, width // 2)
            y = linear(p['ffn']['ffn_out'], relu(linear(p['ffn']['ffn_in'], x)))
            x = layer_norm(p['ffn_norm'], x + y)
        if stage != 'utterance':
            x = merged(params[f'{stage}_merge'], x, merges[stage])
            assert x.shape[1] == width * config['expand'][s]
    head = params['head']
    x = np.mean(x, axis=0)
    x = relu(linear(head['hidden_0'], x))
    x = relu(linear(head['hidden_1'], x))
    return linear(head['classifier'], x)
