"""Steps per second of the program of `feature_contamination`, against its floor and loops over seeds.

    make bench                                  a table
    .venv/bin/pip install torch && make bench   with PyTorch among the peers

All train the published network: 1,000 examples, 256 dimensions with 64 features, 256 hidden ReLU neurons, hinge loss,
SGD with momentum and weight decay, full batches, float32. The floor is the program's two matrix products per step, and
nothing else. They are timed in turns, in a process with one device per core, as `python -m experiments` sets up;
PyTorch has one thread, or one per core. The table shows the fastest of several rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

RACE = textwrap.dedent("""
    import functools, importlib, importlib.util, json, sys, time
    import jax, jax.numpy as jnp, numpy as np, optax
    from jax import lax
    from experiments import _contamination_program as program
    from experiments._study import keys
    from gsjax import methods
    from gsjax._devices import over_devices, over_seeds
    from gsjax.networks import TwoLayer

    SEEDS, STEPS, ROUNDS = max(2, len(jax.devices())), *map(int, sys.argv[1:])
    RATE, DECAY = 1e-3, 1e-3
    sizes = program.Sizes(32, 32, 256, 256, 1000, 1000, (0, STEPS))
    numbers = keys(0, range(SEEDS))
    options = dict(activation=0, optimizer=0, hinge=True, trained=False, centred=False, scale=1.0, mean=0.5,
                   learning_rate=RATE, weight_decay=DECAY)
    arms = program.Arm(**{name: np.full(SEEDS, value) for name, value in options.items()})
    network = TwoLayer(256)
    method = methods.get("erm")(network, optax.sgd(RATE, momentum=0.9), loss="hinge", weight_decay=DECAY)
    y = program.labels(1000)
    features = [program.basis(program.state_key(key), sizes) for key in numbers]
    tasks = [program.task(key, sizes, 0.5) for key in numbers]
    images = [np.asarray(task.train @ rows) for task, rows in zip(tasks, features)]
    fresh = [np.asarray(task.fresh @ rows) for task, rows in zip(tasks, features)]
    outputs = {}

    def one_program():
        outputs["program"] = program.train(numbers, arms, sizes).outputs[:, 0]

    columns = jnp.asarray(np.random.default_rng(0).random((SEEDS, 65, 1000), np.float32))
    hidden = jnp.asarray(np.random.default_rng(1).random((SEEDS, 256, 65), np.float32))

    def products(run, _):
        columns, hidden = run
        return lax.fori_loop(0, STEPS, lambda _, w: 1e-6 * ((w @ columns) @ columns.T), hidden)

    floor = jax.jit(lambda runs: over_seeds(products, over_devices(None), runs, None))

    def only_products():
        jax.block_until_ready(floor((columns, hidden)))

    shared = jax.jit(lambda state, x: method.update(state, methods.Batch(x, y))[0])

    def loop_of_steps():
        found = []
        for key, x, new in zip(numbers, images, fresh):
            state, x = method.init(program.state_key(key), methods.Batch(x, y)), jnp.asarray(x)
            for _ in range(STEPS):
                state = shared(state, x)
            found.append(np.asarray(methods.predict(network, state, new)))
        outputs["steps"] = np.stack(found)

    def one_program_of_methods():
        data = methods.Batch(np.stack(images), np.tile(y, (SEEDS, 1)))
        run = methods.train(
            method, numbers, data, steps=STEPS, evaluate=evaluation, held_out=np.stack(fresh), per_seed=True
        )
        outputs["methods"] = run.records[:, 0]

    def evaluation(state, x):
        return methods.predict(network, state, x)

    ways = {
        "the program": one_program,
        "its matrix products alone": only_products,
        "methods.train, in all dimensions": one_program_of_methods,
        "loop over seeds, a compiled step": loop_of_steps,
    }
    if importlib.util.find_spec("torch"):
        torch = importlib.import_module("torch")

        def loop_in_torch(threads):
            torch.set_num_threads(threads)
            found = []
            target = torch.tensor(np.asarray(y))
            for key, x, new in zip(numbers, images, fresh):
                start = program.initial(key, sizes, False)
                layer = torch.nn.Linear(256, 256)
                with torch.no_grad():
                    layer.weight.copy_(torch.tensor(np.asarray(start.hidden)))
                    layer.bias.copy_(torch.tensor(np.asarray(start.bias)))
                output, offset = torch.tensor(np.asarray(start.output)), float(start.offset)
                optimizer = torch.optim.SGD(layer.parameters(), lr=RATE, momentum=0.9, weight_decay=DECAY)
                x = torch.tensor(x)
                for _ in range(STEPS):
                    optimizer.zero_grad()
                    f = torch.relu(layer(x)) @ output + offset
                    torch.relu(1 - target * f).mean().backward()
                    optimizer.step()
                with torch.no_grad():
                    found.append((torch.relu(layer(torch.tensor(new))) @ output + offset).numpy())
            outputs["torch"] = np.stack(found)

        for threads in (1, len(jax.devices())):
            ways[f"loop over seeds, PyTorch, {threads} threads"] = functools.partial(loop_in_torch, threads)

    for way in ways.values():
        way()
    scale = np.abs(outputs["steps"]).max()
    difference = max(float(np.abs(each - outputs["steps"]).max() / scale) for each in outputs.values())
    taken = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begin = time.perf_counter(), time.process_time()
            way()
            taken[name].append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    rates = {name: [SEEDS * STEPS / min(column) for column in zip(*times)] for name, times in taken.items()}
    print(json.dumps({"rates": rates, "difference": difference, "devices": len(jax.devices())}))
""")


def test_steps_per_second(capsys, once):
    cores = os.cpu_count() or 1
    flags = f"--xla_force_host_platform_device_count={cores}"
    steps, rounds = ("100", "1") if once else ("500", "3")
    command = [sys.executable, "-c", RACE, steps, rounds]
    process = subprocess.run(
        command, env={**os.environ, "XLA_FLAGS": flags}, check=True, capture_output=True, text=True
    )
    found = json.loads(process.stdout.splitlines()[-1])
    assert found["difference"] < 1e-3
    ours, floor = (found["rates"][name] for name in ("the program", "its matrix products alone"))
    with capsys.disabled():
        print(f"\nfull-batch steps of the published network, {found['devices']} devices of one core")
        for name, rates in found["rates"].items():
            wall, busy = (own / rate for own, rate in zip(ours, rates, strict=True))
            print(f"  {name:34} {rates[0]:7.0f} steps/s   program's ratio {wall:5.2f}, by CPU time {busy:5.2f}")
        speeds = [4 * 1000 * 65 * 256 * rate / 1e9 for _, rate in (ours, floor)]
        print(f"  {speeds[0]:.0f} GFLOP/s per core in the program, {speeds[1]:.0f} in products alone")
