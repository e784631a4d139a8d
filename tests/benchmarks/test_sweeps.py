"""Seeds per second: the single program of a sweep against loops over seeds, ours and PyTorch's; costs of a sweep.

    make bench                                  two tables
    .venv/bin/pip install torch && make bench   with PyTorch among the peers

All train the same MLP, 64-256-1 with tanh units, on the same 256 digits to the same tolerance on the gradient, in
float32, by L-BFGS with 20 vectors of memory; 16 seeds. They are timed in turns, in a process with one device per core,
as `python -m experiments` sets up; the table shows the fastest of several rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gsjax import Ridge, networks, sweeps, tangent, training
from gsjax.data import Dataset

RACE = textwrap.dedent("""
    import importlib, importlib.util, json, sys, time
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, PartitionSpec
    from gsjax import Ridge, data, networks, training

    SEEDS, ROUNDS, TOLERANCE, STRENGTH = 16, int(sys.argv[1]), 1e-3, 10.0
    x, y = data.digits((3, 8), n=256, key=jax.random.key(0))
    network, penalty = networks.MLP((256,), activation="tanh"), Ridge(STRENGTH)
    keys = jax.random.split(jax.random.key(1), SEEDS)

    def one(key):
        fit = training.fit(network.apply, network.init(key, x), x, y, penalty, tolerance=TOLERANCE)
        return fit.logits, fit.converged

    spread = PartitionSpec("seeds")
    program = jax.jit(jax.shard_map(lambda keys: jax.lax.map(one, keys), mesh=Mesh(np.array(jax.devices()), ("seeds",)),
                                    in_specs=spread, out_specs=spread, check_vma=False))
    single = jax.jit(one)
    start = jax.jit(lambda key: training.init(network.apply, network.init(key, x), x, y, penalty))
    step = jax.jit(lambda state: training.step(network.apply, state, x, y, penalty))

    def loop_of_runs():
        return [jax.block_until_ready(single(key)) for key in keys]

    def loop_of_steps():
        for key in keys:
            state = start(key)
            target = TOLERANCE * float(jnp.linalg.norm(state.optimizer[-1].grad))
            norm = np.inf
            while norm > target:
                state, info = step(state)
                norm = float(info.gradient_norm)
        return state

    ways = {
        "one program": lambda: jax.block_until_ready(program(keys)),
        "loop over seeds, a compiled run": loop_of_runs,
        "loop over seeds, a compiled step": loop_of_steps,
    }
    if importlib.util.find_spec("torch"):
        torch = importlib.import_module("torch")
        inputs = torch.tensor(np.asarray(x).reshape(len(x), -1)) / np.sqrt(64)
        labels = torch.tensor(np.asarray(y))
        weights = [jax.tree.leaves(network.init(key, x)) for key in keys]
        outputs = []

        def loop_in_torch():
            outputs.clear()
            for initial in weights:
                origin = [torch.tensor(np.asarray(leaf)) for leaf in initial]
                theta = [leaf.clone().requires_grad_() for leaf in origin]
                scale = np.sqrt(networks.gamma("tanh") / 256)

                def apply(w):
                    return (scale * torch.tanh(inputs @ w[0]) @ w[1])[:, 0]

                with torch.no_grad():
                    before = apply(origin)
                optimizer = torch.optim.LBFGS(theta, max_iter=1, history_size=20, line_search_fn="strong_wolfe",
                                              tolerance_grad=0.0, tolerance_change=0.0)

                def closure():
                    optimizer.zero_grad()
                    logits = apply(theta) - before
                    norm = sum(((a - b) ** 2).sum() for a, b in zip(theta, origin))
                    loss = torch.nn.functional.softplus(-labels * logits).sum() + STRENGTH / 2 * norm
                    loss.backward()
                    return loss

                def gradient():
                    return float(torch.sqrt(sum((leaf.grad**2).sum() for leaf in theta)))

                closure()
                target = TOLERANCE * gradient()
                while gradient() > target:
                    optimizer.step(closure)
                    closure()
                outputs.append((apply(theta) - before).detach().numpy())

        ways["loop over seeds, PyTorch"] = loop_in_torch

    for way in ways.values():
        way()
    logits, converged = program(keys)
    assert converged.all()
    difference = 0.0
    if "loop over seeds, PyTorch" in ways:
        difference = float(np.abs(np.stack(outputs) - logits).max() / np.abs(logits).max())
    taken = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - begin)
    rates = {name: SEEDS / min(times) for name, times in taken.items()}
    print(json.dumps({"rates": rates, "difference": difference, "devices": len(jax.devices())}))
""")


def test_seeds_per_second(capsys, once):
    cores = os.cpu_count() or 1
    flags = f"--xla_force_host_platform_device_count={cores}"
    command, environment = [sys.executable, "-c", RACE, "1" if once else "5"], {**os.environ, "XLA_FLAGS": flags}
    process = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found = json.loads(process.stdout.splitlines()[-1])
    assert found["difference"] < 0.02
    with capsys.disabled():
        print(f"\n16 seeds of an MLP 64-256-1, n = 256, {found['devices']} devices of one core")
        for name, rate in found["rates"].items():
            print(f"  {name:36} {rate:8.0f} seeds/s   {found['rates']['one program'] / rate:5.2f}")


def cost(n: int, depth: int, width: int) -> tuple[int, float, float, float]:
    """Parameters, bytes per seed in training, and operations of a step and of a kernel, as the compiler counts them."""
    train = Dataset(jnp.ones((n, 64)), jnp.ones(n))
    sweep = sweeps.Sweep(widths=(width,), depths=(depth,), seeds=1, tolerance=1e-3)
    mesh = Mesh(np.array(jax.devices()[:1]), ("seeds",))
    memory = sweeps.program(sweep, width, depth, train, train, mesh=mesh).compile().memory_analysis()
    assert memory is not None

    network, penalty = networks.MLP((width,) * depth, activation="tanh"), Ridge(1.0)
    params = jax.eval_shape(network.init, jax.random.key(0), train.x)
    state = jax.eval_shape(lambda p, x: training.init(network.apply, p, x, train.y, penalty), params, train.x)
    step = jax.jit(lambda s, x: training.step(network.apply, s, x, train.y, penalty)).lower(state, train.x).compile()
    kernel = jax.jit(lambda p, x: tangent.ntk(network.apply, p, x)).lower(params, train.x).compile()
    operations = [dict(program.cost_analysis() or {})["flops"] for program in (step, kernel)]
    return sum(leaf.size for leaf in jax.tree.leaves(params)), memory.temp_size_in_bytes, *operations


def test_costs_of_a_sweep(capsys, once):
    sizes = ((128, 1, 256), (256, 1, 256), (256, 1, 4096), (256, 2, 256), (256, 2, 1024), (512, 2, 1024))
    costs = {size: cost(*size) for size in (sizes[:1] + sizes[-1:] if once else sizes)}
    with capsys.disabled():
        print("\n     n  depth  width         m    MiB/seed    bytes/parameter     Mflop/step     Mflop/kernel")
        for (n, depth, width), (m, size, step, kernel) in costs.items():
            print(
                f"{n:6} {depth:6} {width:6} {m:9} {size / 2**20:13.1f} {size / m:18.0f} {step / 1e6:14.0f}"
                f" {kernel / 1e6:16.0f}"
            )
    assert costs[512, 2, 1024][1] > costs[128, 1, 256][1]
