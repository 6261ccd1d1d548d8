"""Of each preset the equation that decides, and the parts it is made of: for lists and pages, not for the engine.

``d`` is the density aimed at, ``P`` the drop fraction, ``g`` the gradient of the loss, ``w`` a weight, ``t`` the step of ``T``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Description:
    """What a reader of a list wants to see of a rule.

    Attributes:
        equation: What decides which weights are active.
        parts: Initial masks; drop; grow; redistribution, pattern or parametrisation.
    """

    equation: str
    parts: str


_COSINE = "P(t) = P₁ + (P₀ − P₁)/2 · (1 + cos(π t/T))"
_RAMP = "d(t) = d + (1 − d)(1 − (t − t₀)/(t₁ − t₀))³"
_HIDDEN = "hidden weights"

DESCRIPTIONS: Mapping[str, Description] = MappingProxyType(
    {
        "dense": Description("m = 1", "all weights"),
        "small-dense": Description(
            "m[i, j] = 1 for i < ⌊f·out⌋, j < ⌊f·in⌋, the largest f with |m| ≤ d N", "first units"
        ),
        "static": Description("m ~ uniform over masks of |m_l| = d_l N_l", "random masks"),
        "fixed": Description("m = (w ≠ 0), or as given", "given masks"),
        "set": Description(
            "drop ζ of {w > 0} by smallest w and ζ of {w < 0} by largest w", "random; signed magnitude; random growth"
        ),
        "set-itop": Description(f"drop min |w|, {_COSINE}", "random; magnitude; random growth"),
        "rigl": Description(
            "drop min |w|, grow max |g|, P(t) = α/2 · (1 + cos(π t/T_end))", "random; magnitude; gradient"
        ),
        "rigl-itop": Description(f"drop min |w|, grow max |g|, {_COSINE}", "random; magnitude; gradient"),
        "snfs": Description(
            "m ← β m + (1 − β) g; grow max |m|; layer l gets Σk · mean|m_l| / Σ mean|m|",
            "random; magnitude; momentum; by momentum",
        ),
        "dsr": Description(
            "drop |w| < H; H ← H/2 above 1.1 Np, 2H below 0.9 Np; layer l gets K R_l / ΣR",
            "random; global threshold; random growth; by survivors",
        ),
        "deep-r": Description(
            "θ ← θ − η g − η λ + √(2 η τ) ν, w = s θ; drop θ < 0, grow anywhere at s·10⁻¹²",
            "random, fixed signs; sign change; random growth; whole network",
        ),
        "mest": Description("drop min |w| + λ|g|", "random; magnitude and gradient; random growth"),
        "mest-soft": Description(
            "grow P first, drop min |w| + λ|g| at the next update", "random; magnitude and gradient; random growth"
        ),
        "dst-ee": Description(
            "grow max |g| + c ln t / (n + ε), n updates active so far",
            "random; magnitude; gradient and exploration bonus",
        ),
        "granet": Description(
            f"{_RAMP}, then drop min |w| and grow max |g|", "ramp; magnitude; gradient; global pruning"
        ),
        "selfish-rnn": Description(
            "drop min |w| over the gates of a cell; averaged weights w̄ over steps since growth (SNT-ASGD)",
            "random; magnitude; random growth; between gates",
        ),
        "nest": Description(
            "grow max |ḡ| at w = −η ḡ; wake neurons at max |G|, G = mean(∂L/∂u · x), w = ±√|G|; drop min |w|",
            "random seed; magnitude; averaged gradient; neuron growth",
        ),
        "edst": Description(
            "drop min |w|, P constant; q at M − 1 times, before each of them a ticket",
            "random; magnitude; random growth; several networks of one run",
        ),
        "top-kast": Description(
            "A = top-D |w| forward, B = top-(D + M) |w| backward; penalty Σ_A w² + Σ_(B−A) w²/D",
            f"{_HIDDEN}; magnitude sets",
        ),
        "swat": Description(
            "y = top-K(w) x, ∂L/∂w = ∂L/∂y · top-K(x), ∂L/∂x = top-K(w)ᵀ ∂L/∂y",
            f"{_HIDDEN}; magnitude; sparse activations",
        ),
        "srigl": Description(
            "drop min |w|, grow max |g|, k per unit; ablate units with fewer than γ k salient weights",
            "constant fan-in; magnitude; gradient; neuron ablation",
        ),
        "nm": Description(
            "|m| ≤ n in each M weights of a row, n = ⌈d_l M⌉; drop min |w|, grow max |g|", "N:M; magnitude; gradient"
        ),
        "block": Description("blocks B: drop min Σ_B |w|, grow max Σ_B |g|", "blocks; magnitude; gradient"),
        "random": Description("m ~ uniform, d_l = d", "random masks"),
        "magnitude": Description("keep max |w₀|", "magnitude masks"),
        "snip": Description("keep max |g w| over all layers", "sensitivity masks"),
        "snip-isometry": Description(
            "w orthogonal; keep max |g w|; min ‖(m∘w)(m∘w)ᵀ − I‖²", "sensitivity masks; new initial weights"
        ),
        "grasp": Description("keep max w · (H g), loss on logits/200", "gradient-flow masks"),
        "synflow": Description("R = 1ᵀ Π|w| 1; keep max |∂R/∂w · w|, d^(k/n) after round k", "synaptic-flow masks"),
        "force": Description(
            "keep max |g(m∘w) · w|, exp(k/T ln d) after round k; removed may return", "sensitivity in rounds"
        ),
        "iter-snip": Description(
            "keep max |g(m∘w) · m∘w|, exp(k/T ln d) after round k; removed stays away", "sensitivity in rounds"
        ),
        "gmp": Description(f"drop min |w| to {_RAMP}", "ramp; magnitude"),
        "taylor": Description(f"drop min mean (g w)² to {_RAMP}", "ramp; Taylor"),
        "obd": Description(f"drop min h w²/2, h = mean g², to {_RAMP}", "ramp; curvature"),
        "obs": Description(
            "drop min w²/(2 [H⁻¹]_ii), δw = −H⁻¹[:, q] (H⁻¹[q, q])⁻¹ w_q, along a cubic ramp", "ramp; curvature blocks"
        ),
        "group-lasso": Description(
            "L + λ Σ √|G| ‖w_G‖₂ over rows and columns; keep max ‖w_G‖", "dense; group norms, once"
        ),
        "early-bird": Description(
            "channels by |γ|; drawn when the last 5 masks differ by less than 0.1", "dense; channel masks, once"
        ),
        "omp": Description("keep max |w| over all layers, once", "dense; magnitude, once"),
        "imp": Description("drop 20 % min |w|, w ← w₀, repeat", "dense; magnitude in rounds; rewinding to the start"),
        "lth": Description("drop 20 % min |w|, w ← w_k, repeat", "dense; magnitude in rounds; late rewinding"),
        "lr-rewind": Description("drop 20 % min |w|, η(t) anew, repeat", "dense; magnitude in rounds; rate rewinding"),
        "surgery": Description(
            "off |w| ≤ 0.9 c, on |w| > 1.1 c, with probability (1 + γ t)^−p", f"{_HIDDEN}; magnitude, two thresholds"
        ),
        "str": Description("w_eff = sign(w) · relu(|w| − σ(s_l))", f"{_HIDDEN}; soft threshold a layer"),
        "trainable-thresholds": Description(
            "w_eff = w · step(|w| − t_i), L + α Σ exp(−t)", f"{_HIDDEN}; threshold a unit"
        ),
        "targeted-dropout": Description(
            "drop each of the γ(t) smallest |w| of a layer with probability α", f"{_HIDDEN}; dropout of the smallest"
        ),
        "l0": Description(
            "z = clamp(σ((ln u/(1−u) + a)/β)(ζ − γ) + γ), L + λ Σ σ(a − β ln(−γ/ζ))", f"{_HIDDEN}; hard concrete gates"
        ),
        "bernoulli-gates": Description(
            "z ~ Bernoulli(p), L + λ₁ Σ p(1 − p) + λ₂ Σ p", f"{_HIDDEN}; straight-through gates"
        ),
        "continuous-sparsification": Description("w_eff = w · σ(β s), β: 1 → 200", f"{_HIDDEN}; steepening gates"),
        "autoprune": Description("w_eff = w · [a > 0], ∂L/∂a = g sign(w)", f"{_HIDDEN}; auxiliary gates"),
        "probmask": Description(
            "w_eff = w · σ((ln s/(1−s) + G₁ − G₂)/τ), project Σ s ≤ K(t)", f"{_HIDDEN}; projected probabilities"
        ),
        "variational-dropout": Description(
            "w ~ N(w, σ²), drop ln α = ln σ² − ln w² ≥ 3, L + KL(α)", f"{_HIDDEN}; trained noise"
        ),
    }
)
"""By preset."""
