"""The benchmark: what is compared, counted, shown and left out. No time is asserted."""
import csv
import shutil
import sys
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import peers
import pytest
import torch
from torch import nn

from mmeffnet.analysis import (
    clock,
    compiler,
    contenders,
    speed,
    speed_chart,
    speed_cli,
    speed_report,
)
from mmeffnet.analysis.contenders import OURS, OURS_SYMMETRIC, Contender
from mmeffnet.analysis.latency import latency
from mmeffnet.analysis.speed_rows import Baseline, Ceilings, Row, ratio
from mmeffnet.analysis.steps import INFER, TRAIN, Setting, Step, batch_for
from mmeffnet.arch import Arch
from mmeffnet.errors import InputError

CPU = torch.device('cpu')
CEILINGS = Ceilings(bandwidth=1e9, matrix={False: 1e12, True: 2e12})


@pytest.fixture(autouse=True)
def _one_thread_and_one_step_a_turn(monkeypatch):
    monkeypatch.setitem(clock.TURN, 'cpu', 0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(*libraries, variant='b0'):
    """The contenders, and what was said of those left out."""
    said = []
    return {c.library: c for c in contenders.contenders(variant, libraries, said.append)}, said


# Same weights, same outputs

def test_all_libraries_agree_with_ours():
    pytest.importorskip('timm')
    pytest.importorskip('efficientnet_pytorch')
    found, said = built(*contenders.LIBRARIES)
    assert not said
    assert [*found] == [OURS, OURS_SYMMETRIC, *contenders.LIBRARIES]
    assert max(c.gap for c in found.values()) < 1e-5
    assert {name: c.reference for name, c in found.items()} == {
        name: OURS_SYMMETRIC if name in (OURS_SYMMETRIC, 'torchvision') else OURS
        for name in found}
    assert not any(c.network.training for c in found.values())


def test_a_network_with_other_weights_is_an_error_and_is_not_there(monkeypatch):
    translate = contenders.to_layout

    def changed(state, arch, layout):
        state = translate(state, arch, layout)
        state['backbone.layers.3.1.se.conv1.conv.bias'] += 0.5
        return state
    monkeypatch.setattr(contenders, 'to_layout', changed)
    found, said = built('mmpretrain')
    assert [*found] == [OURS]
    assert len(said) == 1
    assert said[0].startswith('error: mmpretrain disagrees with mmeffnet on b0: logits differ by')


@pytest.mark.parametrize('options', [
    dict(bn_eps=1e-5), dict(pad_type=''), dict(act_layer=nn.ReLU)],
    ids=['epsilon', 'padding', 'activation'])
def test_a_network_that_computes_something_else_is_found(monkeypatch, options):
    timm = pytest.importorskip('timm')
    monkeypatch.setitem(contenders.LIBRARIES, 'timm', contenders.Library(
        lambda variant: timm.create_model(f'tf_efficientnet_{variant}', **options), 'timm'))
    found, said = built('timm')
    assert [*found] == [OURS]
    assert 'timm disagrees' in said[0]


def test_outputs_that_are_no_numbers_do_not_agree():
    network = nn.Linear(4, 2)
    nn.init.constant_(network.weight, float('nan'))
    gap = contenders.relative(network(torch.ones(1, 4)), torch.ones(1, 2))
    assert not gap <= contenders.TOLERANCE


def test_a_missing_library_and_a_missing_variant_are_a_line_each(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    found, said = built('timm', 'torchvision', variant='lite0')
    assert [*found] == [OURS]
    assert said[0] == 'timm is left out: timm is not installed'
    assert said[1].startswith('torchvision is left out: it builds no such lite0 (')


# Settings and steps

@pytest.mark.parametrize(('name', 'words'), [
    ('chanels_last', "--settings 'chanels_last': 'chanels_last' is no setting"),
    ('bf16+bf16', 'names a part twice'), ('eager+bf16', 'eager stands alone'),
    ('cast+compile', 'cast is to bf16, which it needs beside it'),
    ('', "'' is no setting")])
def test_a_setting_that_means_nothing_is_named(name, words):
    with pytest.raises(InputError, match=words):
        Setting(name)


class Small(nn.Sequential):
    """A classifier that takes no time."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.SiLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 1000))


def small(seed=0):
    torch.manual_seed(seed)
    return Small().eval()


def test_a_training_step_is_the_loss_and_its_gradients():
    network, (images, labels) = small(), batch_for(8, 2, CPU)
    step = Step(network, images, labels, Setting('channels_last'), TRAIN)
    loss = step()
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(network(images), labels)
    assert torch.equal(loss, expected.detach())
    assert network.training
    assert images.is_contiguous()
    assert step.images.is_contiguous(memory_format=torch.channels_last)
    assert all(p.grad is not None for p in network.parameters())
    step.release()
    assert all(p.grad is None for p in network.parameters())


def test_an_inference_step_is_the_logits_in_the_precision_asked_for():
    images, labels = batch_for(8, 2, CPU)
    plain = Step(small(), images, labels, Setting('eager'), INFER)
    logits = plain()
    assert torch.equal(logits, small()(images))
    assert not logits.requires_grad
    assert plain.saved() is None
    assert Step(small(), images, labels, Setting('bf16'), INFER)().dtype == torch.bfloat16
    cast = Step(small(), images, labels, Setting('bf16+cast'), INFER)
    assert {p.dtype for p in cast.network.parameters()} == {torch.bfloat16} == {cast().dtype}
    # Autocast would convert each weight once more in every step.
    assert '_to_copy' not in cast.traffic().read


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ('g++', 'clang++'))),
                    reason='torch.compile needs a C++ compiler')
def test_the_compiler_says_what_its_kernels_move(monkeypatch):
    # Empty caches would have PyTorch's own headers compiled for ten seconds.
    monkeypatch.setattr('torch._inductor.utils.fresh_cache', lambda dir: nullcontext(),
                        raising=False)
    with compiler.compiling() as compiled:
        result = torch.compile(lambda x: x.relu() + 1, dynamic=False)(torch.ones(1000))
    assert result.sum() == 2000
    # One kernel, where two operations would move twice as much.
    assert compiled.moved == 2 * 4000
    assert compiler.Compiled().moved is None
    compiler.forget()


def test_multiply_adds_of_b0_are_those_counted_otherwise():
    network = contenders.ours('b0').eval()
    expected = peers.multiply_adds(network, 64)
    assert clock.multiply_adds(network, 64, False) == expected


def test_multiply_adds_of_a_training_step():
    # 4x4 pixels x 4 channels x 27 products; the linear layer 16 x 1000. The images want no
    # gradient.
    forward, stem = 4 * 4 * 4 * 27 + 16 * 1000, 4 * 4 * 4 * 27
    assert clock.multiply_adds(small(), 8, True) == 3 * forward - stem


def test_time_on_cuda_is_that_between_events(monkeypatch):
    done, current = [], []

    @contextmanager
    def entered(device):
        current.append(device)
        yield
        current.pop()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            assert current == [torch.device('cuda:1')]  # on another's stream nothing is waited for
            self.at = len(done)

        def synchronize(self):
            done.append('synchronized')

        def elapsed_time(self, end):
            return 500.0 * (end.at - self.at)  # in ms
    monkeypatch.setattr(torch.cuda, 'Event', Event)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: None)
    monkeypatch.setattr(torch.cuda, 'device', entered)
    assert clock.Clock(torch.device('cuda:1')).mean(lambda: done.append('work'), 4) == 0.5
    assert done == ['work'] * 4 + ['synchronized']


def test_time_on_a_cpu_is_that_of_a_call_and_warm_rounds_are_left_out(monkeypatch):
    ticks = iter(range(99))
    monkeypatch.setattr(clock, 'time', SimpleNamespace(perf_counter=ticks.__next__))
    watch, calls = clock.Clock(CPU), []
    assert watch.mean(lambda: calls.append('a'), 4) == 0.25
    assert watch.in_turns({'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')},
                          rounds=3, warm=2) == {'a': [1, 1, 1], 'b': [1, 1, 1]}
    assert ''.join(calls) == 'aaaa' + 5 * 'ab'


def test_a_copy_is_counted_both_ways_and_a_product_as_two_operations(monkeypatch):
    monkeypatch.setattr(clock.Clock, 'median', lambda self, work: work() is None or 0.5)
    watch = clock.Clock(CPU)
    assert clock.bandwidth(watch) == 2 * 2 ** 26 / 0.5
    assert clock.matrix_rate(watch, False) == 2 * 1024 ** 3 / 0.5


@pytest.mark.parametrize('allowed', [True, False])
def test_whether_tf32_is_allowed_is_put_back(allowed):
    def now():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    before = now()
    with clock.tf32(allowed):
        assert now() == (allowed, allowed)
    assert now() == before


def test_latency_is_that_of_one_image_in_inference(monkeypatch):
    steps = []
    monkeypatch.setattr(clock.Clock, 'median', lambda self, step, rounds: steps.append(step) or 0.5)
    assert latency(Arch.from_dict(peers.TINY), 64, CPU, classes=7) == 0.5
    assert steps[0].images.shape == (1, 3, 64, 64)
    assert not steps[0].network.training
    assert steps[0]().shape == (1, 7)


# Running

def plan(**changes):
    return speed.Plan(**{**dict(
        variants=['b0'], modes=[INFER], batches=[1], settings=[Setting('eager')],
        libraries=['timm'], device=CPU, size=32, rounds=4), **changes})


@pytest.fixture
def networks(monkeypatch):
    """Stand-ins for the contenders, to be changed by a test."""
    found = [Contender(library=name, network=small(), reference=OURS) for name in (OURS, 'timm')]
    monkeypatch.setattr(speed, 'contenders', lambda variant, libraries, say: found)
    return {c.library: c.network for c in found}


def measured(plan, tell=lambda text, share: None):
    said = []
    return [*speed.Benchmark(plan, said.append, tell).groups()], said


def test_every_combination_has_a_row_with_its_counts(networks):
    groups, said = measured(plan(variants=['b0', 'b1'], modes=[INFER, TRAIN], batches=[1, 2],
                                 settings=[Setting('eager'), Setting('bf16')]))
    assert not said
    assert len(groups) == 8
    assert [(r.setting.name, r.library) for r in groups[0]] == [
        ('eager', OURS), ('eager', 'timm'), ('bf16', OURS), ('bf16', 'timm')]
    assert all(len(row.seconds) == 4 for rows in groups for row in rows)
    first = groups[0][0]
    assert (first.moved, first.saved, first.peak) == (groups[0][1].moved, None, None)
    assert groups[1][0].macs == 2 * first.macs
    train = groups[2][0]
    assert train.mode == TRAIN
    # Images; what BatchNorm, SiLU and pooling are given, with two vectors of statistics; the
    # features; for the loss, the logarithms of the probabilities and what smoothing keeps.
    assert train.saved > 4 * (3 * 32 * 32 + 3 * 4 * 16 * 16 + 16 + 1000)


def test_ours_as_deployed_is_there_in_inference_alone_and_moves_less():
    (infer, train), said = measured(plan(modes=[INFER, TRAIN], batches=[2], size=64, deploy=True,
                                         libraries=[]))
    assert not said
    assert [[row.library for row in rows] for rows in (infer, train)] == [
        [OURS, contenders.OURS_DEPLOYED], [OURS]]
    plain, deployed = infer
    assert deployed.gap < 1e-5
    assert deployed.moved < 0.9 * plain.moved


def test_ours_with_other_backward_passes_is_there_in_training_alone_and_keeps_less():
    (infer, train), said = measured(plan(modes=[INFER, TRAIN], batches=[2], size=64, lean=True,
                                         libraries=[]))
    assert not said
    assert [[row.library for row in rows] for rows in (infer, train)] == [
        [OURS], [OURS, *contenders.LEAN]]
    plain, *lean = train
    for row in lean:
        assert row.saved < 0.6 * plain.saved
        assert row.gap < 1e-5


def test_the_share_that_is_done_grows_to_all(networks):
    shares = []
    measured(plan(batches=[1, 2]), lambda text, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0.9 < shares[-1] < 1


@pytest.mark.parametrize('setting', ['eager', 'bf16'])
def test_a_step_that_computes_something_else_has_no_row(networks, setting):
    nn.init.normal_(networks['timm'][-1].weight)
    (rows, ), said = measured(plan(settings=[Setting(setting)]))
    assert [row.library for row in rows] == [OURS]
    assert f'b0 infer batch 1 {setting} timm is left out: RuntimeError: it differs' in said[0]


@pytest.mark.parametrize('calls', [0, 12])  # while it is made ready, and in the rounds
def test_what_fails_is_one_line_and_a_missing_row(networks, calls):
    left = [calls]

    class Failing(Small):
        def forward(self, x):
            left[0] -= 1
            if left[0] < 0:
                raise torch.OutOfMemoryError('out of memory\nmuch is said here')
            return super().forward(x)

        def __deepcopy__(self, memo):
            return self
    networks['timm'].__class__ = Failing
    (rows, ), said = measured(plan(rounds=20))
    assert [row.library for row in rows] == [OURS]
    assert len(rows[0].seconds) == 20
    assert said == ['error: b0 infer batch 1 eager timm is left out: OutOfMemoryError: out of '
                    'memory much is said here']


class Watch:
    """Stands in for the module time: passes when it is told to."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_no_round_past_the_third_is_added_when_the_budget_is_spent(networks, monkeypatch):
    watch = Watch()
    monkeypatch.setattr(speed, 'time', watch)

    def tell(text, share):
        if text.startswith('round'):
            watch.now += 3
    groups, said = measured(plan(rounds=50, budget=40, batches=[1, 2]), tell)
    assert not said
    # Half of 40 s is 7 rounds; then 20 and less is left for the other group.
    assert [len(row.seconds) for rows in groups for row in rows] == [7, 7, 7, 7]
    watch.now = 0.0
    groups, _ = measured(plan(rounds=50, budget=2, batches=[1]), tell)
    assert [len(row.seconds) for row in groups[0]] == [3, 3]


def test_no_candidate_is_begun_when_the_budget_is_spent(networks, monkeypatch):
    watch = Watch()
    monkeypatch.setattr(speed, 'time', watch)

    def tell(text, share):
        if text.endswith('timm'):
            watch.now += 100
    (rows, ), said = measured(plan(budget=50), tell)
    assert said == ['b0 infer batch 1 eager timm is left out: the budget is spent']
    assert [len(row.seconds) for row in rows] == [3]


def test_candidates_take_turns_in_changing_order(networks, monkeypatch):
    order = []
    monkeypatch.setattr(clock.Clock, 'mean', lambda self, step, times: order.append(
        id(step)) or 0.1)
    monkeypatch.setattr(clock.Clock, 'steps_in_a_turn', lambda self, step: 1)
    measured(plan(rounds=8))
    turns = [tuple(order[i:i + 2]) for i in range(0, 16, 2)]
    assert {frozenset(turn) for turn in turns} == {frozenset(order)}
    assert len(set(turns)) == 2


# Showing

def row(library=OURS, seconds=(0.01, 0.02, 0.03), setting='eager', reference=OURS, **changes):
    return Row(**{**dict(
        variant='b0', mode=TRAIN, batch=4, size=64, setting=Setting(setting), library=library,
        reference=reference, gap=2e-7, macs=10 ** 8, first=1.5, moved=10 * 2 ** 20,
        saved=2 ** 20, seconds=list(seconds)), **changes})


ROWS = [row(), row('timm', (0.04, 0.04, 0.04), gap=3e-7),
        row('timm', (0.01, 0.01, 0.01), 'bf16', peak=3 * 2 ** 20, moved=None)]


def test_the_table_has_the_numbers():
    lines = speed_report.table(ROWS, CEILINGS, Baseline('timm', 'eager')).splitlines()
    assert lines[0] == '### b0, training, batch 4, 64 px'
    assert lines[2].startswith('Logits agree within 3.0e-07 of the largest (float32, 64x97 px')
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[4:]]
    assert cells[0] == [
        'setting', 'library', 'ms', 'quartiles', 'images/s', 'time / ours', 'time / timm eager',
        'first call s', 'peak MiB', 'moved MiB', 'saved MiB', '% of copy', '% of matrix']
    assert cells[2] == ['eager', 'mmeffnet', '20', '15 to 25', '200', '1.00', '0.50', '1.5', '-',
                        '10.0', '1.0', '52', '1']
    assert cells[3][2:7] == ['40', '40 to 40', '100', '2.00', '1.00']
    # Nothing of ours in bfloat16; twice the ceiling there.
    assert cells[4][5:] == ['-', '0.25', '1.5', '3.0', '-', '1.0', '-', '1']


def test_torchvision_is_compared_with_ours_padded_as_it_is():
    rows = [row(), row(OURS_SYMMETRIC, [0.5] * 3, reference=OURS_SYMMETRIC),
            row('torchvision', [0.25] * 3, reference=OURS_SYMMETRIC)]
    assert ratio(rows[2], rows, Baseline(rows[2].reference)) == 0.5
    assert ratio(rows[2], rows, Baseline('timm')) is None


def test_the_csv_has_all_rows_in_full(tmp_path):
    speed_report.write_csv(ROWS, CEILINGS, None, tmp_path / 'new' / 'speed.csv')
    with (tmp_path / 'new' / 'speed.csv').open() as file:
        found = list(csv.DictReader(file))
    assert [line['library'] for line in found] == [OURS, 'timm', 'timm']
    assert [float(line['ms']) for line in found] == pytest.approx([20, 40, 10])
    assert found[0]['moved_bytes'] == str(10 * 2 ** 20)
    assert found[0]['peak_bytes'] == found[0]['vs_baseline'] == found[2]['vs_ours'] == ''
    assert float(found[1]['vs_ours']) == pytest.approx(2)
    assert float(found[0]['bandwidth_percent']) == pytest.approx(100 * 10 * 2 ** 20 / 0.02 / 1e9)


def test_the_chart_has_a_panel_for_each_group_and_a_bar_for_each_row():
    figure = speed_chart.drawn([*ROWS, row(batch=16)], 'a title')
    first, second = figure.axes
    assert [a.get_title(loc='left') for a in figure.axes] == [
        'b0, training, batch 4, 64 px', 'b0, training, batch 16, 64 px']
    assert [bar.get_width() for bar in first.patches] == pytest.approx([200, 100, 400])
    assert [text.get_text() for text in first.texts] == [
        '200  mmeffnet', '100  timm', '400  timm']
    assert [label.get_text() for label in first.get_yticklabels()] == ['eager', 'bf16']
    assert len(second.patches) == 1
    assert {*speed_chart.COLOURS} == {*contenders.NAMES}
    assert len(set(speed_chart.COLOURS.values())) == len(contenders.NAMES)


# The command

@pytest.mark.parametrize(('argv', 'words'), [
    (['--variants', 'b9'], "--variants 'b9' is no variant"),
    (['--batch', '0'], '--batch 0 must be at least 1'),
    (['--size', '16'], '--size 16 must be at least 32'),
    (['--rounds', '2'], '--rounds 2 must be at least 3'),
    (['--budget', '-1'], '--budget -1.0 must be at least 0'),
    (['--settings', 'graphs'], '--settings graphs needs CUDA'),
    (['--settings', 'bf61'], "'bf61' is no setting"),
    (['--settings', 'bf16+cast'], '--settings cast is for --mode infer'),
    (['--device', 'tpu'], "device 'tpu' does not work here"),
    (['--device', 'meta'], "device 'meta'"),
    (['--baseline', 'tim'], "--baseline 'tim': 'tim' is no library; did you mean 'timm'?"),
    (['--baseline', 'timm:fast'], "--baseline 'fast': 'fast' is no setting"),
    (['--baseline', 'timm', '--against', 'mmpretrain'],
     "--baseline 'timm': timm is not measured; add it by --against timm"),
    (['--baseline', 'mmeffnet symmetric', '--against'], 'add it by --against torchvision'),
    (['--baseline', 'mmeffnet deployed'], 'mmeffnet deployed is not measured; add it by --deploy'),
    (['--baseline', 'mmeffnet lean'], 'mmeffnet lean is not measured; add it by --lean'),
    (['--baseline', 'timm:bf16'], "'bf16' is none of the settings that are measured (eager, "
     'channels_last): choose one'),
    (['--budget', '0'], 'nothing could be measured'),
    (['--lean', '--mode', 'infer'], '--lean is for --mode train, and infer is asked for'),
    (['--deploy', '--mode', 'train'], '--deploy is for --mode infer, and train is asked for'),
    (['--out', '/proc/nowhere'], '--out /proc/nowhere: nothing can be written there'),
])
def test_a_wrong_argument_is_one_line(argv, words, networks, capsys, monkeypatch):
    monkeypatch.delenv('MMEFFNET_TRACEBACK', raising=False)
    monkeypatch.setattr(speed_cli, 'measure_ceilings', lambda device, settings: CEILINGS)
    with pytest.raises(SystemExit) as exit_:
        speed_cli.main(['--device', 'cpu', '--size', '32', *argv])
    assert exit_.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith('error: ')
    assert words in last


def test_what_is_named_twice_is_measured_once():
    plan = speed_cli.plan_of(speed_cli.parser().parse_args([
        '--device', 'cpu', '--variants', 'b1', 'b0', 'b1', '--batch', '2', '2', '--mode', 'infer',
        'infer', '--against', 'timm', 'timm', '--settings', 'eager', 'bf16', 'eager']))
    assert (plan.variants, plan.batches, plan.modes) == (['b1', 'b0'], [2], [INFER])
    assert (plan.libraries, [one.name for one in plan.settings]) == (['timm'], ['eager', 'bf16'])


@pytest.mark.parametrize(('baseline', 'package'), [
    ('timm:eager', 'timm'), ('mmeffnet symmetric', 'torchvision')])
def test_a_baseline_that_is_not_installed_is_said_first_and_has_no_column(
        baseline, package, networks, capsys, monkeypatch):
    monkeypatch.setattr(speed_cli, 'measure_ceilings', lambda device, settings: CEILINGS)
    monkeypatch.setattr(speed_cli, 'find_spec', lambda name: None if name == package else 'there')
    speed_cli.main(['--device', 'cpu', '--size', '32', '--batch', '1', '--mode', 'infer',
                    '--rounds', '3', '--settings', 'eager', '--baseline', baseline])
    told = capsys.readouterr()
    assert told.err.startswith(f'--baseline {baseline!r}: {package} is not installed')
    assert 'time / ours' in told.out
    assert f'time / {package}' not in told.out


def test_a_baseline_that_is_measured_has_a_column(networks, capsys, monkeypatch):
    monkeypatch.setattr(speed_cli, 'measure_ceilings', lambda device, settings: CEILINGS)
    monkeypatch.setattr(speed_cli, 'find_spec', lambda name: 'there')
    for name in ('timm', 'timm:eager', OURS):
        speed_cli.main(['--device', 'cpu', '--size', '32', '--batch', '1', '--mode', 'infer',
                        '--rounds', '3', '--settings', 'eager', '--baseline', name])
        told = capsys.readouterr()
        assert not told.err
        assert f'time / {name.replace(":", " ")}' in told.out


def test_the_command_prints_tables_and_writes_files(tmp_path, capsys):
    speed_cli.main(['--device', 'cpu', '--size', '32', '--batch', '2', '--mode', 'train',
                    '--rounds', '3', '--settings', 'eager', '--against', 'mmpretrain',
                    '--out', str(tmp_path)])
    out, err = capsys.readouterr()
    assert err == ''
    assert 'GB/s, matrix products reach' in out.splitlines()[0]
    assert f'PyTorch {torch.__version__}, 1 thread.' in out
    assert out.count('| eager | m') == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ['speed.csv', 'speed.png']
    assert (tmp_path / 'speed.png').read_bytes().startswith(b'\x89PNG')
    with (tmp_path / 'speed.csv').open() as file:
        ours, theirs = csv.DictReader(file)
    # Views and the activation in place move less than mmpretrain's copies.
    assert int(ours['moved_bytes']) < int(theirs['moved_bytes'])
    assert int(ours['saved_bytes']) < int(theirs['saved_bytes'])
