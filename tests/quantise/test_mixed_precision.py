"""int8 with 16 bits where it is coarse or slow: what is widened and when, and that it comes nearer."""

from __future__ import annotations

import functools
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from helpers import needs_tflm, quantise
from jax_reparam.deploy import convert, ops
from jax_reparam.graph import arena, cost, flatbuffer
from jax_reparam.graph.passes import optimise
from jax_reparam.quantise import bias_correction, mixed_precision
from jax_reparam.quantise.regions import TABLES, Regions
from jax_reparam.runtime import litert, tflm

WIDTH, TIME, HEADS = 8, 24, 2


@pytest.fixture(scope='module')
def windows():
    return np.random.default_rng(0).standard_normal((12, TIME, WIDTH)).astype(np.float32)


def projection(seed):
    rng = np.random.default_rng(seed)
    return {'kernel': rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 3, 'bias': np.ones(WIDTH, np.float32)}


def widen(int8, function, **options):
    return helpers.widen(int8, convert.to_float32(function, (1, TIME, WIDTH)), **{'front': True, **options})


def tails(int8):
    return Regions(flatbuffer.tree(int8)).tails()


LAYER = {name: projection(seed) for seed, name in enumerate(('query', 'key', 'value'))}
POSITIONS = LAYER['query'] | {'bias': np.random.default_rng(4).uniform(-1, 3, (TIME, WIDTH)).astype(np.float32)}
TABLE = np.random.default_rng(3).standard_normal((HEADS, 2 * TIME - 1, WIDTH // HEADS)).astype(np.float32) / 3


def ends(x, behind='l2', front=LAYER['query'], first=LAYER['key']):
    """A layer, the front, a layer with a residual, a normalisation written as `behind` says, the head."""
    x = ops.linear(front, jax.nn.relu(ops.linear(first, x[0])))
    x = x + ops.linear(LAYER['value'], ops.normalise(x, 'rsqrt'))
    return ops.head(
        {'hidden_0': LAYER['key'], 'classifier': LAYER['query']}, ops.mean_over_time(ops.normalise(x, behind))
    )


def merged(x):
    """A layer and a normalisation, a merge of tokens, layers with their residuals, a merge, the head."""
    x = ops.merge(ops.normalise(ops.linear(LAYER['key'], x[0]), 'rsqrt'), 4) * SCALE
    x = ops.normalise(x + ops.windowed_attention(LAYER, x, HEADS, 3), 'rsqrt')
    x = jnp.concatenate([x, ops.linear(LAYER['query'], x)], axis=1)[:, : WIDTH + 2]
    return ops.head({'hidden_0': WIDER, 'classifier': LAYER['query']}, ops.mean_over_time(ops.merge(x, 3)))


def framed(x, first='rsqrt'):
    """A normalisation; attention that reads positions, too, with a mean beside; a merge, the same again; the head."""
    x = ops.normalise(ops.linear(LAYER['key'], x[0]), first)
    for group in (4, 3):
        residual = x * SCALE
        mixed = ops.windowed_attention(LAYER, residual + POSITIONS['bias'][: len(x)], HEADS, 3)
        mixed = jnp.concatenate([mixed, ops.linear({'kernel': SCALE.T, 'bias': np.zeros(1, np.float32)}, x)], axis=1)
        x = ops.merge(ops.normalise(residual + ops.linear(TALLER, mixed), 'rsqrt'), group)
    return ops.head({'hidden_0': LAYER['key'], 'classifier': LAYER['query']}, ops.mean_over_time(x))


SCALE = np.random.default_rng(6).uniform(0.5, 2, (1, WIDTH)).astype(np.float32)
WIDER = LAYER['value'] | {'kernel': np.concatenate([LAYER['value']['kernel'], LAYER['key']['kernel'][:2]])}
TALLER = LAYER['value'] | {'kernel': np.concatenate([LAYER['value']['kernel'], LAYER['key']['kernel'][:1]])}
# Those with a head: how many softmaxes they have.
ENDS = {'ends': 0, 'positions': 0, 'merged': 1, 'framed': 2}
FUNCTIONS = {
    'attention': lambda x: ops.attention(LAYER, x[0], HEADS).reshape(1, -1),
    'relative': lambda x: ops.attention(LAYER | {'positions': TABLE}, x[0], HEADS).reshape(1, -1),
    'windowed': lambda x: ops.windowed_attention(LAYER, x[0], HEADS, 5).reshape(1, -1),
    'ends': ends,
    # Bias and positions are one constant.
    'positions': lambda x: ends(x, front=POSITIONS),
    'merged': merged,
    'framed': framed,
    'gate': lambda x: (x[0] * jax.nn.sigmoid(ops.linear(LAYER['value'], x[0]))).reshape(1, -1),
}


@pytest.fixture(scope='module', params=FUNCTIONS)
def forms(request, windows):
    """(name, function, int8, the same with all that can be wide)"""
    function = FUNCTIONS[request.param]
    int8 = quantise(function, windows)
    options = {'tail': next(iter(tails(int8)), None), 'frames': request.param == 'framed'}
    return request.param, function, int8, widen(int8, function, **options)


def nodes(model):
    """(operator, type of each tensor that it reads, of that which it makes), in the order of the graph."""
    content = flatbuffer.tree(model)
    kind = lambda tensor: flatbuffer.type_name(content.subgraphs[0].tensors[tensor].type)
    return [
        (name, [kind(tensor) for tensor in node.inputs], kind(node.outputs[0]))
        for name, node in zip(flatbuffer.operator_names(content), content.subgraphs[0].operators, strict=True)
    ]


def test_the_operators_stay_and_only_conversions_come(forms):
    name, _, int8, made = forms
    before, after = (flatbuffer.graph(model) for model in (int8, made))
    without = lambda graph: {op: count for op, count in graph.ops.items() if op not in flatbuffer.CONVERSIONS}
    assert without(before) == without(after)
    assert sum(after.ops.get(name, 0) for name in flatbuffer.CONVERSIONS) > 0
    assert after.input == before.input
    assert after.output == before.output if name not in ENDS else after.output.dtype == 'int16'


def test_softmaxes_and_sigmoids_are_16_bits_wide_with_the_product_that_reads_them(forms):
    name, _, _, made = forms
    found = nodes(made)
    kinds = lambda op: [(set(reads), makes) for other, reads, makes in found if other == op]
    assert kinds('SOFTMAX') + kinds('LOGISTIC') == [({'int16'}, 'int16')] * (name not in ENDS or ENDS[name])
    # The first are those of queries with keys: with those beside, too; with a block's own, and those behind it. Behind
    # windows' softmaxes zeros come between, which are dear in 16 bits.
    product = {'attention': 'int16', 'relative': 'int16', 'windowed': 'int8'}
    if name in product:
        narrow = [({'int8'}, 'int8')] * (1 if name == 'attention' else 2)
        assert kinds('BATCH_MATMUL') == [*narrow, ({product[name]}, product[name])]
    if name == 'gate':
        assert kinds('MUL') == [({'int16'}, 'int16')]
    if name not in ENDS:
        assert all(makes == 'int8' for op, _, makes in found if op in ('FULLY_CONNECTED', 'ADD', 'PAD'))


def test_what_becomes_16_bits_wide_is_not_rounded(forms):
    content = flatbuffer.tree(forms[3])
    port = lambda tensor: flatbuffer.port(content.subgraphs[0].tensors[tensor])
    nodes, names, readers = (
        content.subgraphs[0].operators,
        flatbuffer.operator_names(content),
        flatbuffer.readers(content),
    )
    count = 0
    for name, node in zip(names, nodes, strict=True):
        source, made = port(node.inputs[0]), port(node.outputs[0])
        if name in flatbuffer.CONVERSIONS and source.dtype == 'int8':
            values = source.decode(np.arange(-128, 128))
            assert (made.dtype, made.zero_point) == ('int16', 0)
            count += 1
            if name == 'QUANTIZE':
                np.testing.assert_allclose(made.decode(made.encode(values)), values, rtol=1e-6)
                continue
            # The integers stay, so that values are off by what stands for zero: a softmax does not see it, and the bias
            # of a layer takes it back (below).
            behind = [readers[int(node.outputs[0])][0]]
            off = source.scale * source.zero_point
            np.testing.assert_allclose(made.decode(np.arange(-128, 128)), values + off, rtol=1e-6, atol=1e-6)
            assert not off or {names[place] for place in behind} <= {'SOFTMAX', 'FULLY_CONNECTED'}
        if name in TABLES:
            assert (made.dtype, made.scale, made.zero_point) == ('int16', 2.0**-15, 0)
    assert count


@pytest.mark.parametrize('name', ['attention', 'gate'])
def test_what_saves_too_little_for_its_memory_stays(windows, name):
    function = FUNCTIONS[name]
    int8 = quantise(function, windows)
    op = {'attention': 'SOFTMAX', 'gate': 'LOGISTIC'}[name]
    elements = {'attention': HEADS * TIME * TIME, 'gate': TIME * WIDTH}[name]
    wide_price = cost.INT16[op].instructions + cost.INT8['CAST'].instructions + cost.INT16['QUANTIZE'].instructions
    saved = elements * (cost.INT8[op].instructions - wide_price)
    takes = 2 * arena.PER_NODE + (arena.PER_SOFTMAX if op == 'SOFTMAX' else 0)
    dtype = lambda model: next(makes for found, _, makes in nodes(model) if found == op)
    assert dtype(widen(int8, function, worth=0.99 * saved / takes)) == 'int16'
    assert dtype(widen(int8, function, worth=1.01 * saved / takes)) == 'int8'


def test_tables_are_taken_where_the_time_is_worth_the_arena(windows):
    function = FUNCTIONS['attention']
    int8, float32 = quantise(function, windows), convert.to_float32(function, (1, TIME, WIDTH))
    narrow, made = (helpers.widen(int8, float32, front=False, worth=worth) for worth in (np.inf, 0))
    assert nodes(narrow) == nodes(int8)  # there is no head
    slow, fast = (cost.of_model(optimise(model)).instructions for model in (narrow, made))
    small, large = (arena.arena(flatbuffer.tree(optimise(model))) for model in (narrow, made))
    exchange = (slow - fast) / (large - small)
    assert exchange > 0
    # What each softmax takes by itself is less.
    for worth, expected in ((0.99 * exchange, made), (1.01 * exchange, narrow)):
        assert mixed_precision.choose(int8, float32, front=False, worth=worth) == expected


@needs_tflm
@pytest.mark.parametrize('name', ['attention', 'ends'])
def test_the_arena_is_foreseen(windows, name):
    int8 = quantise(FUNCTIONS[name], windows)
    for form in (optimise(int8), optimise(widen(int8, FUNCTIONS[name]))):
        taken = tflm.run(form, windows[:1]).arena_bytes
        assert taken - 2500 < arena.arena(flatbuffer.tree(form)) <= taken


@pytest.mark.parametrize(
    ('behind', 'unit'),
    [
        ('l2', [('L2_NORMALIZATION', ['int8'], 'int8')]),
        (
            'rsqrt',
            [
                ('BATCH_MATMUL', ['int8', 'int8'], 'int8'),
                ('RSQRT', ['int8'], 'int8'),
                ('MUL', ['int8', 'int8'], 'int8'),
            ],
        ),
    ],
)
def test_front_and_head_are_16_bits_wide_and_what_lies_between_is_not(windows, behind, unit):
    function = lambda x: ends(x, behind)
    int8 = quantise(function, windows)
    found = nodes(widen(int8, function))
    moves = (*flatbuffer.CONVERSIONS, 'RESHAPE', 'TRANSPOSE')
    layer, narrow = ['int16', 'int8', 'int64'], ['int8', 'int8', 'int32']
    assert [(op, reads, makes) for op, reads, makes in found if op not in moves] == [
        ('FULLY_CONNECTED', narrow, 'int8'),
        ('FULLY_CONNECTED', layer, 'int16'),
        ('BATCH_MATMUL', ['int16', 'int16'], 'int16'),  # the sum of squares
        ('RSQRT', ['int16'], 'int16'),
        ('MUL', ['int16', 'int16'], 'int16'),
        ('FULLY_CONNECTED', narrow, 'int8'),
        ('ADD', ['int8', 'int8'], 'int8'),
        *unit,
        ('FULLY_CONNECTED', mock.ANY, 'int16'),  # the mean
        ('FULLY_CONNECTED', layer, 'int16'),
        ('FULLY_CONNECTED', layer, 'int16'),
    ]


@pytest.mark.parametrize('name', ['ends', 'positions', 'relative'])
def test_the_residual_stream_is_16_bits_wide_where_it_is_asked_for(windows, name):
    """Not what is added to scores, nor positions but in the front."""
    function = FUNCTIONS[name]
    int8 = quantise(function, windows)
    options = ({}, {'sums': True}, {'sums': True, 'front': False})
    found = [[makes for op, _, makes in nodes(widen(int8, function, **some)) if op == 'ADD'] for some in options]
    expected = {
        'ends': [['int8'], ['int16'], ['int16']],
        'positions': [['int16', 'int8'], ['int16', 'int16'], ['int8', 'int16']],
        'relative': [['int8'], ['int8'], ['int8']],
    }
    assert found == expected[name]


@pytest.mark.parametrize('front', [True, False])
def test_sums_are_taken_for_a_little_arena_behind_a_wide_front(windows, monkeypatch, front):
    int8, float32 = quantise(ends, windows), convert.to_float32(ends, (1, TIME, WIDTH))
    plain, sums = (helpers.widen(int8, float32, front=front, sums=sums) for sums in (False, True))
    monkeypatch.setattr(cost, 'of_model', lambda model: types.SimpleNamespace(instructions=1))
    ratio = arena.arena(flatbuffer.tree(optimise(sums))) / arena.arena(flatbuffer.tree(optimise(plain)))
    assert ratio > 1
    for most, expected in ((1.001 * ratio, sums if front else plain), (0.999 * ratio, plain)):
        monkeypatch.setattr(mixed_precision, 'GROWS', most)
        assert mixed_precision.choose(int8, float32, front=front) == expected


def test_sums_take_noise_away(windows):
    """Of a residual stream of eight sums."""
    rng = np.random.default_rng(5)
    layers = [
        {'kernel': rng.standard_normal((WIDTH, WIDTH)).astype(np.float32), 'bias': np.zeros(WIDTH, np.float32)}
        for _ in range(8)
    ]

    def stream(x):
        x = ops.linear(LAYER['query'], x[0])
        for layer in layers:
            x = x + ops.linear(layer, ops.normalise(x, 'l2'))
        return x.reshape(1, -1)

    int8 = quantise(stream, windows)
    expected = np.concatenate([stream(window[None]) for window in windows])
    models = [widen(int8, stream, sums=sums) for sums in (False, True)]
    noise = [np.square(litert.load(model, reference=True)(windows) - expected).sum() for model in models]
    assert noise[1] < 0.8 * noise[0], noise


@pytest.mark.parametrize('merge', [False, True])
def test_behind_a_merge_all_is_16_bits_wide_and_nothing_is_converted(windows, merge):
    int8 = quantise(merged, windows)
    names = flatbuffer.operator_names(flatbuffer.tree(int8))
    place = names.index('DEPTHWISE_CONV_2D') + 1
    # Of the second merge all that follows is the head.
    assert tails(int8) == [place]
    place -= merge  # itself, too
    made = widen(int8, merged, front=False, tail=place)
    found = nodes(made)
    assert found[:place] == nodes(int8)[:place]
    # A convolution's bias takes no zero back: it may stand beside zeros.
    assert found[place] == ('QUANTIZE', ['int8'], 'int16')
    assert [op for op, _, _ in found[place + 1 :]] == names[place:]
    assert {makes for _, _, makes in found[place + 1 :]} == {'int16'}
    weights = {'int8', 'int32', 'int64'}  # those of layers, what shapes and paddings are, biases
    assert {kind for _, reads, _ in found[place + 1 :] for kind in reads} == {'int16'} | weights


@pytest.mark.parametrize('what', ['arena', 'instructions'])
def test_the_longest_tail_that_takes_little_is_taken(windows, monkeypatch, what):
    def thrice(x):
        x = ops.normalise(ops.linear(LAYER['key'], x[0]), 'l2')
        for name, wider in (('query', 20), ('value', 36), ('key', 64)):  # a little less memory each time
            kernel = np.tile(LAYER[name]['kernel'], wider)
            x = jax.nn.relu(ops.linear({'kernel': kernel, 'bias': np.ones(len(kernel.T), np.float32)}, ops.merge(x, 2)))
            x = ops.linear(LAYER[name] | {'kernel': kernel.T / wider}, x)
        return ops.linear(LAYER['key'], x).reshape(1, -1)

    int8, float32 = quantise(thrice, windows), convert.to_float32(thrice, (1, TIME, WIDTH))
    starts = tails(int8)
    assert len(starts) == 3
    forms = [helpers.widen(int8, float32, front=False, worth=np.inf, tail=tail) for tail in (None, *starts)]
    # Of the two that may not grow, one stays as it is.
    if what == 'arena':
        monkeypatch.setattr(cost, 'of_model', lambda model: types.SimpleNamespace(instructions=1))
        plain, *prices = (arena.arena(flatbuffer.tree(optimise(form))) for form in forms)
    else:
        monkeypatch.setattr(arena, 'arena', lambda content: 1)
        plain, *prices = (cost.of_model(optimise(form)).instructions for form in forms)
    ratios = [price / plain for price in prices]
    assert ratios[0] > ratios[1] > ratios[2] > 1
    for most, expected in zip((1.001 * ratios[0], *(0.999 * ratio for ratio in ratios)), (1, 2, 3, 0), strict=True):
        monkeypatch.setattr(mixed_precision, 'GROWS', most)
        assert mixed_precision.choose(int8, float32, front=False) == forms[expected]


def test_of_frames_all_but_attention_is_16_bits_wide(windows):
    int8 = quantise(framed, windows)
    made = widen(int8, framed, front=False, tail=tails(int8)[0], frames=True)
    names, content = flatbuffer.operator_names(flatbuffer.tree(int8)), flatbuffer.tree(made)
    narrow = [op for op, _, makes in nodes(made) if makes == 'int8' and op not in flatbuffer.CONVERSIONS]
    # Of what lies between the sum with positions and the residual's, not the softmax and the mean before the output.
    start, *_ = sums = [place for place, name in enumerate(names) if name == 'ADD']
    *inner, mean, join, out = names[start : sums[1]]
    inner.remove('SOFTMAX')
    assert (mean, [*inner, join, out]) == ('FULLY_CONNECTED', narrow)
    layers = [node for node in content.subgraphs[0].operators if flatbuffer.shape(content, node.outputs[0])[1:] == (1,)]
    kinds = [flatbuffer.type_name(content.subgraphs[0].tensors[layer.outputs[0]].type) for layer in layers]
    assert kinds.count('int8') == 1  # the mean, converted to be joined
    assert kinds.count('int16') > 2


def test_frames_may_take_more_than_what_lies_behind(windows, monkeypatch):
    int8, float32 = quantise(framed, windows), convert.to_float32(framed, (1, TIME, WIDTH))
    monkeypatch.setattr(cost, 'of_model', lambda model: types.SimpleNamespace(instructions=1))
    [tail] = tails(int8)
    options = ({'tail': tail, 'frames': True}, {'tail': tail}, {})
    forms = [helpers.widen(int8, float32, front=False, worth=np.inf, **some) for some in options]
    *arenas, least = (arena.arena(flatbuffer.tree(optimise(form))) for form in forms)
    frames, behind = (arena / least for arena in arenas)
    assert frames > behind > 1
    for most, most_by_frames, expected in ((1, 1.001 * frames, 0), (1.001 * behind, 0.999 * frames, 1), (1, 1, 2)):
        monkeypatch.setattr(mixed_precision, 'GROWS', most)
        monkeypatch.setattr(mixed_precision, 'GROWS_BY_FRAMES', most_by_frames)
        assert mixed_precision.choose(int8, float32, front=False) == forms[expected]


def test_frames_stay_where_something_has_no_16_bit_kernel(windows, monkeypatch):
    function = functools.partial(framed, first='l2')
    int8, float32 = quantise(function, windows), convert.to_float32(function, (1, TIME, WIDTH))
    monkeypatch.setattr(mixed_precision, 'GROWS', np.inf)
    expected = helpers.widen(int8, float32, front=False, worth=np.inf, tail=tails(int8)[0])
    assert mixed_precision.choose(int8, float32, front=False) == expected


@pytest.mark.parametrize('other', [jax.nn.relu, lambda x: SCALE.repeat(TIME, 0)], ids=['made', 'constant'])
def test_what_is_joined_has_one_scale(windows, other):
    function = lambda x: jnp.concatenate([ops.linear(LAYER['key'], x[0]), other(x[0])], axis=1).reshape(1, -1)
    int8, float32 = quantise(function, windows), convert.to_float32(function, (1, TIME, WIDTH))
    content = flatbuffer.tree(int8)
    name, place = 'CONCATENATION', flatbuffer.operator_names(content).index('CONCATENATION')
    helpers.widen(int8, float32, front=False, tail=0)
    layer = content.subgraphs[0].tensors[content.subgraphs[0].operators[place].inputs[0]].quantization
    layer.scale = 2 * layer.scale
    with pytest.raises(ValueError, match=rf'{name} {place}: expected one scale, got \['):
        helpers.widen(flatbuffer.pack(content), float32, front=False, tail=0)


def test_a_front_that_is_not_written_for_it_stays(windows):
    function = lambda x: ends(x, 'rsqrt')
    found = nodes(widen(quantise(function, windows), function, front=False))
    assert {makes for op, _, makes in found if op in ('RSQRT', 'MUL', 'BATCH_MATMUL', 'ADD')} == {'int8'}
    # The mean and the head's two.
    assert [makes for op, _, makes in found if op == 'FULLY_CONNECTED'] == ['int8'] * 3 + ['int16'] * 3


def test_a_bias_has_the_scale_of_its_layer(forms):
    name, _, _, made = forms
    content = flatbuffer.tree(made)
    ports = [flatbuffer.port(tensor) for tensor in content.subgraphs[0].tensors]
    layers = [node.inputs for node in content.subgraphs[0].operators if len(node.inputs) == 3 and node.inputs[2] >= 0]
    found = [inputs for inputs in layers if ports[inputs[2]].dtype == 'int64']
    # One in the front, two in the head, behind a merge four and another merge; of frames one and a merge, too.
    assert len(found) == {'ends': 3, 'positions': 3, 'merged': 8, 'framed': 9}.get(name, 0)
    for source, weights, bias in found:
        assert ports[bias].scale == pytest.approx(ports[source].scale * ports[weights].scale, rel=1e-6)


@pytest.mark.parametrize('front', [LAYER['query'], POSITIONS], ids=['bias', 'positions'])
def test_a_bias_takes_back_what_stood_for_zero_and_correction_keeps_that(windows, front):
    # Where tokens are zero but for few, what stands for it takes values far out of the range.
    function = lambda x: ends(x, front=front, first=LAYER['key'] | {'bias': np.full(WIDTH, -1.5, np.float32)})
    int8, float32 = quantise(function, windows), convert.to_float32(function, (1, TIME, WIDTH))
    made = helpers.widen(int8, float32, front=True)
    for model in (made, bias_correction.corrected(made, float32, windows)):
        content = flatbuffer.tree(model)
        port = lambda tensor, content=content: flatbuffer.port(content.subgraphs[0].tensors[tensor])
        readers, nodes = flatbuffer.readers(content), content.subgraphs[0].operators
        [cast] = [
            node
            for name, node in zip(flatbuffer.operator_names(content), nodes, strict=True)
            if name == 'CAST' and port(node.inputs[0]).zero_point == -128
        ]  # the other side of a RELU
        [layer] = [nodes[place] for place in readers[int(cast.outputs[0])]]
        source, weights, bias = map(int, layer.inputs)
        real = flatbuffer.constant(content, bias) * port(bias).scale
        back = 128 * port(source).scale * port(weights).decode(flatbuffer.constant(content, weights)).sum(axis=1)
        expected = front['bias'] if front['bias'].ndim == 1 else 0
        np.testing.assert_allclose(real - back, expected, atol=0.01)  # what correction moves; less than 0.001 here
        assert np.abs(back).max() > 1


def gated(make, more=lambda y: y):
    """A sigmoid of what `make` makes, times `more` of that."""
    return lambda x: (jax.nn.sigmoid(y := make(x[0])) * more(y)).reshape(1, -1)


def layer(bias):
    return functools.partial(ops.linear, LAYER['value'] | {'bias': np.full(WIDTH, bias, np.float32)})


@pytest.mark.parametrize(
    ('function', 'centred'),
    [
        (gated(layer(0.2)), True),
        (gated(lambda x: layer(0.2)(x).reshape(2, -1).T), True),  # all that show its values have its scale
        (gated(layer(2)), False),  # steps would grow by more than an eighth
        (gated(lambda x: jax.nn.relu(layer(0.2)(x))), False),
        (gated(layer(0.2), layer(0.1)), False),  # the bias of the second has the scale of what that reads
        (gated(lambda x: x + layer(0.2)(x)), False),  # made by no layer
    ],
)
def test_what_a_sigmoid_reads_is_cast_if_it_may_have_its_zero_in_the_middle(windows, function, centred):
    int8 = quantise(function, windows)
    before, after = (flatbuffer.tree(model) for model in (int8, widen(int8, function)))
    content = after.subgraphs[0]
    names = flatbuffer.operator_names(after)
    [sigmoid] = [node for name, node in zip(names, content.operators, strict=True) if name == 'LOGISTIC']
    [(name, made)] = [
        (name, node)
        for name, node in zip(names, content.operators, strict=True)
        if node.outputs[0] == sigmoid.inputs[0]
    ]
    assert name == ('CAST' if centred else 'QUANTIZE')
    old, new = (flatbuffer.port(tree.subgraphs[0].tensors[made.inputs[0]]) for tree in (before, after))
    if not centred:
        assert new == old
        return
    assert new.zero_point == 0 != old.zero_point
    assert new.scale <= mixed_precision._WIDER * old.scale
    reach = np.abs(old.decode(np.array([-128, 127]))).max()
    assert 127 * new.scale == pytest.approx(reach, rel=1e-6)
    check_moves(after)


def test_a_tensor_is_converted_once(forms):
    content = flatbuffer.tree(forms[3])
    read = [
        int(node.inputs[0])
        for name, node in zip(flatbuffer.operator_names(content), content.subgraphs[0].operators, strict=True)
        if name in flatbuffer.CONVERSIONS
    ]
    assert len(read) == len(set(read))


def test_all_that_is_made_is_read_and_what_is_moved_keeps_its_scale(forms):
    content = flatbuffer.tree(forms[3])
    subgraph, readers = content.subgraphs[0], flatbuffer.readers(content)
    assert all(readers[int(node.outputs[0])] or node.outputs[0] in subgraph.outputs for node in subgraph.operators)
    check_moves(content)


def check_moves(content):
    subgraph = content.subgraphs[0]
    for name, node in zip(flatbuffer.operator_names(content), subgraph.operators, strict=True):
        if name in ('PAD', 'RESHAPE', 'SLICE', 'STRIDED_SLICE', 'TRANSPOSE'):
            source, made = (flatbuffer.port(subgraph.tensors[end[0]]) for end in (node.inputs, node.outputs))
            assert (source.dtype, source.scale, source.zero_point) == (made.dtype, made.scale, made.zero_point)


def test_it_comes_nearer(forms):
    name, function, *models = forms
    # Within the ranges that were measured: what is clipped is clipped in both.
    windows = 0.7 * np.random.default_rng(1).standard_normal((48, TIME, WIDTH)).astype(np.float32)
    expected = np.concatenate([function(window[None]) for window in windows])
    int8, made = (np.square(litert.load(model, reference=True)(windows) - expected).sum() for model in models)
    # Here 0.71, 0.83, 1.00, 0.70, 0.69, 0.82, 0.64 and 0.99: behind its 16 bits a product is rounded as it was before.
    least = {'attention': 0.8, 'relative': 0.9, 'ends': 0.8, 'positions': 0.8, 'merged': 0.9, 'framed': 0.8}
    assert made < int8 * least.get(name, 1.05)


@needs_tflm
def test_tflm_computes_the_same(forms, windows):
    made = forms[3]
    output = flatbuffer.graph(made).output
    # The two round a few int16 values otherwise, and three layers follow: of 65,536 steps 3 at most here, 6 on five
    # other draws of the windows. Of int8 a score is rounded otherwise here and there: with the sums of `relative`,
    # one output of 2,304 lies two steps apart.
    steps = 6.01 if output.dtype == 'int16' else 2.01 if forms[0] == 'relative' else 1.01
    np.testing.assert_allclose(
        tflm.run(made, windows).logits, litert.load(made, reference=True)(windows), atol=steps * output.scale
    )


def test_without_any_of_these_nothing_changes(windows):
    function = lambda x: jax.nn.relu(ops.normalise(ops.linear(LAYER['value'], x[0]), 'l2')).reshape(1, -1)
    int8 = quantise(function, windows)
    assert nodes(widen(int8, function)) == nodes(int8)


def test_another_graph_is_refused(forms, windows):
    other = convert.to_float32(lambda x: x + x.sum(axis=1, keepdims=True), (1, TIME, WIDTH))
    with pytest.raises(ValueError, match='expected the operators of the float32 graph'):
        helpers.widen(forms[2], other, front=True)
