"""What every part of a method can do: look at each step, and say what it needs."""

from __future__ import annotations

from itop.context import Context


class Part:
    """A part of a method that may follow the training between updates.

    A part is a frozen value; what it remembers goes to ``context.state`` under a key of its own.
    """

    @property
    def works_on_shards(self) -> bool:
        """Whether it decides alike on every rank where each holds a part of a layer: by selections and counts only."""
        return True

    @property
    def works_truly_sparse(self) -> bool:
        """Whether it knows layers that hold their active weights only: it looks at the values of these, at gradients
        through ``topology.gradient_scores()`` or ``gradients()``, and at sets.
        """
        return False

    @property
    def needs_gradient(self) -> bool:
        """Whether an update looks at the gradients of inactive weights, at the update step."""
        return False

    @property
    def needs_gradient_every_step(self) -> bool:
        """Whether :meth:`observe` looks at the gradients of inactive weights, which are then computed at every step."""
        return False

    def observe(self, context: Context) -> None:
        """Called before every optimiser step, dense gradients at hand; ``context.step`` steps are done."""


class WrappingPart(Part):
    """A part that changes how the rule it wraps chooses: it needs what that one needs, and lets it observe."""

    rule: Part

    @property
    def needs_gradient(self) -> bool:
        return self.rule.needs_gradient

    @property
    def needs_gradient_every_step(self) -> bool:
        return self.rule.needs_gradient_every_step

    def observe(self, context: Context) -> None:
        self.rule.observe(context)
