"""The same populations in JAX: ``vmap`` and ``jit`` of a step, Adam by optax, buffers donated.

Convolutions have two forms, since XLA's grouped convolution is slow on CPUs: its own, and nine
shifted products.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from torch import Tensor, nn
from work import Row

jax.config.update("jax_enable_x64", True)  # float64 for the comparison; float32 stays float32
RATE = 1e-3
Apply = Callable[[dict[str, Any], Any], Any]


def forms() -> dict[str, Callable[..., Callable[[], Any]]]:
    """The forms by name."""
    return {"JAX": population, "JAX shifted": partial(population, shifted=True)}


def population(
    modules: list[nn.Module], row: Row, x: Tensor, y: Tensor, *, shifted: bool = False
) -> Callable[[], Any] | None:
    """A step of all members; None where a row has no such form."""
    if shifted and row.kind != "cnn":
        return None
    names = [name for name, _ in modules[0].named_parameters()]
    states = [dict(m.named_parameters()) for m in modules]
    parameters = {
        name: jnp.asarray(np.stack([state[name].detach().cpu().numpy() for state in states]))
        for name in names
    }
    inputs, targets = jnp.asarray(x.cpu().numpy()), jnp.asarray(y.cpu().numpy())
    apply = {"mlp": _mlp, "cnn": partial(_cnn, shifted=shifted), "gru": _gru}[row.kind]
    optimizer = optax.adam(RATE)

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        output = apply(parameters, x)
        if row.kind == "gru":
            return jnp.mean((output - y) ** 2)
        return optax.softmax_cross_entropy_with_integer_labels(output, y).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(parameters: Any, state: Any, x: Any, y: Any) -> Any:
        losses, gradients = jax.vmap(jax.value_and_grad(loss))(parameters, x, y)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, losses

    held = [parameters, optimizer.init(parameters)]

    def once() -> Any:
        held[0], held[1], losses = step(*held, inputs, targets)
        return losses

    once.finish = lambda: jax.block_until_ready(held)  # type: ignore[attr-defined]
    return once


def _mlp(parameters: dict[str, Any], x: Any) -> Any:
    layers = sorted({int(name.partition(".")[0]) for name in parameters})
    for layer in layers:
        x = x @ parameters[f"{layer}.weight"].T + parameters[f"{layer}.bias"]
        x = x if layer == layers[-1] else jax.nn.relu(x)
    return x


def _cnn(parameters: dict[str, Any], x: Any, *, shifted: bool) -> Any:
    layers = sorted({int(name.partition(".")[0]) for name in parameters})
    for layer in layers[:-1]:
        weight, bias = parameters[f"{layer}.weight"], parameters[f"{layer}.bias"]
        if shifted:
            height, width = x.shape[2:]
            padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
            shifts = [
                padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)
            ]
            patches = jnp.stack(shifts, 2)  # [batch, channels, 9, height, width]
            kernel = weight.reshape(*weight.shape[:2], 9)
            x = jnp.einsum("bcshw,ocs->bohw", patches, kernel)
        else:
            x = lax.conv(x, weight, (1, 1), "SAME")
        x = jax.nn.relu(x + bias[:, None, None])
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height // 2, 2, width // 2, 2).max((3, 5))
    x = x.reshape(x.shape[0], -1)
    return x @ parameters[f"{layers[-1]}.weight"].T + parameters[f"{layers[-1]}.bias"]


def _gru(parameters: dict[str, Any], x: Any) -> Any:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    w_x, w_h, b_x, b_h = (parameters[f"gru.{name}"] for name in names)
    given = jnp.swapaxes(x @ w_x.T + b_x, 0, 1)  # [steps, batch, 3 hidden]

    def turn(h: Any, now: Any) -> tuple[Any, None]:
        r_x, z_x, n_x = jnp.split(now, 3, -1)
        r_h, z_h, n_h = jnp.split(h @ w_h.T + b_h, 3, -1)
        r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
        n = jnp.tanh(n_x + r * n_h)
        return (1 - z) * n + z * h, None

    start = jnp.zeros((x.shape[0], w_h.shape[1]), x.dtype)
    return lax.scan(turn, start, given)[0]
