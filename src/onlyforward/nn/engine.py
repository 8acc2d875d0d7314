"""Likelihood-ratio training of any torch module: a drop-in for `loss.backward()` that needs forward runs only.

At a site v the network runs on with v + sigma eps. The loss's cotangent at v is estimated by
delta = (1/n) sum_n (L_n - beta) eps_n / sigma per datum, and one local vector-Jacobian product makes it the parameters'
gradient (arXiv 2305.08960). Noise enters one site at a time; what lies before it runs once, clean, for all copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.directions import KINDS, Direction, direction
from onlyforward.core.errors import Diverged, UsageError
from onlyforward.core.keys import Key
from onlyforward.nn.activations import Group, LossFn, Objective, SiteProbe, run_site
from onlyforward.nn.asktell import Asked, ask, tell
from onlyforward.nn.cache import CACHES, Ledger, RunningNoise, site_noise
from onlyforward.nn.choices import RECHECK, choose_noise, choose_pairing
from onlyforward.nn.clean import check_flow, clean_losses
from onlyforward.nn.costs import Costs, count_costs
from onlyforward.nn.credit import GraphCredit, PositionCredit, credited, edges_of, position_credit
from onlyforward.nn.gradients import deposit, finite, hand_on, quiet, take
from onlyforward.nn.joint import check_injection, joint_deltas
from onlyforward.nn.learned import Slopes
from onlyforward.nn.levels import MODES, Levels
from onlyforward.nn.noise import SiteNoise
from onlyforward.nn.pilots import copies_for, site_kappa
from onlyforward.nn.plan import check_plan, planned
from onlyforward.nn.ragged import check_allocation, ragged_deltas
from onlyforward.nn.sites import RECURRENT, Call, Site
from onlyforward.nn.state import Memory, Started, site_stats
from onlyforward.nn.units import loose_site, sites_of, visited
from onlyforward.nn.walk import Tape, Walk, check_modes
from onlyforward.nn.weights import BASELINES, level, weights

CREDITS = ("auto", "causal", "none")
PAIRINGS = ("auto", "pairs", "single")
FAILS = ("raise", "warn", "skip")
MEASUREMENTS = 8
"""Independent pilot estimates behind a measured kappa."""


class LikelihoodRatio:
    """Fills `p.grad` from forward runs.

    Args:
        model: any module, unchanged.
        plan: glob over module paths -> lr, bp, channel, weights, exact or frozen; the last match wins. What no glob
            matches is lr, and the last unit of a network is exact where the loss can be differentiated.
        copies: n, perturbed runs per site and datum, at least 2.
        sigma: noise level in units of the site's tensor, or "auto": 0.05 of its root mean square (0.5 behind
            thresholds).
        noise: kind of noise, or "auto": hadamard for a smooth suffix, gaussian where a threshold follows.
        baseline: clean (unperturbed loss), loo (mean of the other copies), ema (running mean), none, or standard (loo
            in each datum's standard deviations: for 0-1 losses, see `weights.weights`).
        pairing: auto (from pilot pairs, checked every 50 steps), pairs or single.
        injection: layer (noise at one site at a time), block (at all sites of a module) or all.
        allocation: a `core.allocate` allocator that divides a site's n b runs over the data; None gives each n.
        target_cosine: measures kappa every 50 steps and gives each site the copies that reach this cosine.
        seed: run coordinate of every draw.
        credit: auto (receptive fields on graphs, causal for losses [b, m]), causal, none, or a mask [positions, m].
        reference: run copies by vmap: slow, right by construction, the twin of the fast path.
        cache: what of the score is kept between run and pull: seed (nothing), full, bf16, sign or none (running sums).
        sigma_mode: fixed, loss or snr: how levels move from where they start; sigma="loss" and sigma="snr" say the same
            and start at "auto".
        sigma_floor: no level goes below it.
        sigma_rate: learning rate of log sigma.
        sigma_per: site or channel: what learns a level of its own; calls and time steps of a module share theirs.
        flow: full, or local: recurrent modules keep one time step's states, for networks that read the last output.
        visits: share of a recurrent module's time steps that are perturbed in a step, drawn anew each time; their
            gradients are divided by it, so the estimate stays unbiased.
        fail: raise, warn or skip: what a module whose local rule does not work leads to.
        group: workers that share the copies, see `activations.Group`.
        force: allow noise that is no likelihood ratio with a loss that cannot be differentiated.

    Raises:
        UsageError: settings that mean nothing, or a plan that matches nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        plan: Mapping[str, str] | None = None,
        copies: int = 16,
        sigma: float | str = "auto",
        noise: str = "auto",
        baseline: str = "clean",
        pairing: str = "auto",
        credit: str | Tensor = "auto",
        injection: str = "layer",
        allocation: Any = None,
        target_cosine: float | None = None,
        seed: int = 0,
        reference: bool = False,
        force: bool = False,
        cache: str = "seed",
        sigma_mode: str = "",
        sigma_floor: float = 0.0,
        sigma_rate: float = 0.02,
        sigma_per: str = "site",
        group: Group | None = None,
        flow: str = "full",
        visits: float = 1.0,
        fail: str = "raise",
    ) -> None:
        check_range(copies, name="copies", low=2, why="one run has nothing to be compared with")
        if pairing == "pairs" and copies % 2:
            raise UsageError(f"copies is {copies}", "Give an even number, because copies come in mirrored pairs")
        if sigma not in ("auto", *MODES):
            check_range(float(sigma), name="sigma", low=0.0, open_low=True, why="without noise there is no signal")
        self.plan = dict(plan or {})
        self.copies, self.sigma, self.seed, self.force = copies, sigma, seed, force
        self.noise = check_choice(noise, ("auto", *KINDS), name="noise")
        self.baseline = check_choice(baseline, BASELINES, name="baseline")
        self.pairing = check_choice(pairing, PAIRINGS, name="pairing")
        self.credit = credit if isinstance(credit, Tensor) else check_choice(credit, CREDITS, name="credit")
        self.reference = reference
        self.flow = check_choice(flow, ("full", "local"), name="flow")
        self.visits = check_range(visits, name="visits", low=0.0, high=1.0, open_low=True)
        self.fail = check_choice(fail, FAILS, name="fail")
        self.asked: Asked | None = None
        self.walk = Walk(model, self.recorded_as)
        self.model = self.walk.model
        check_plan(self.plan, self.model)
        self.head: str | None = None
        self.smooth_loss: bool | None = None
        self.memory: dict[str, Memory] = {}
        self.steps = self.runs = self.data = 0
        self.costs: Costs | None = None
        self.cache = check_choice(cache, CACHES, name="cache")
        if cache == "none" and baseline not in ("clean", "none"):
            raise UsageError(f"A one-pass sum cannot take the baseline {baseline}", "Take cache seed")
        self.kept = Ledger()
        self.group = group
        self.sigma_floor = check_range(sigma_floor, name="the floor of sigma", low=0.0)
        mode = sigma_mode or (str(sigma) if sigma in MODES else "fixed")
        self.levels = None if mode == "fixed" else Levels(mode=mode, rate=sigma_rate, floor=sigma_floor, per=sigma_per)
        self.graph_credit: GraphCredit | None = None
        self.position_credit: PositionCredit | None = None
        self.leads: tuple[str, ...] = ()
        self.injection = check_injection(self, injection)
        self.allocation = allocation
        if allocation is not None:
            check_allocation(self)
        if target_cosine is not None:
            check_range(target_cosine, name="the target cosine", low=0.0, high=0.9999, open_low=True)
        self.target_cosine = target_cosine

    # Kinds -----------------------------------------------------------------------------------------------------------

    def kind_of(self, path: str) -> str:
        """How the unit at a path learns."""
        found = planned(self.plan, path)
        if found is None:
            found = "exact" if path == self.head and self.smooth_loss is not False else "lr"
        return found

    def recorded_as(self, path: str) -> str:
        """The kind under which the clean run records a unit: an exact head needs the slope of the loss, no graph."""
        kind = self.kind_of(path)
        if kind == "lr" and self.flow == "local" and type(self.model.get_submodule(path)) in RECURRENT:
            return "local"
        return "lr" if path == self.head and kind == "exact" else kind

    def look(self, tape: Tape) -> None:
        """What the first clean run shows: which unit gives the output, and whether the data interact."""
        last = tape.calls[-1] if tape.calls else None
        self.head = last.path if last is not None and last.output is tape.output else None
        edges = next((found for found in map(edges_of, tape.calls) if found is not None), None)
        if edges is not None:
            self.graph_credit = GraphCredit(edges, tape.data, masked=self.credit != "none")

    @property
    def stack(self) -> bool:
        """Whether copies go in front of the data, which interact."""
        return self.graph_credit is not None

    # The step --------------------------------------------------------------------------------------------------------

    def backward(self, loss_fn: LossFn, *inputs: Any) -> Tensor:
        """Estimate the gradient of the mean loss and add it to `p.grad` of every trained parameter.

        Args:
            loss_fn: (output, target) -> losses [b].
            inputs: what the model takes, and the target last; first dimensions are b.

        Returns:
            The mean clean loss.

        Raises:
            UsageError: a loss that is not [b]; BatchNorm in training mode.
            Diverged: a loss or a gradient is not finite.
        """
        with self.started(loss_fn, *inputs) as begun:
            for site, delta in self.deltas(begun):
                take(self, site, delta, begun.found, begun.data)
            hand_on(self, begun.tape.calls, begun.found)
        deposit(self, begun.found)
        self.steps += 1
        return begun.clean.mean() if begun.clean.dim() == 1 else begun.clean.sum(1).mean()

    def deltas(self, begun: Started) -> Iterator[tuple[Site, Tensor]]:
        """Run the copies: (site, cotangent) in turn; to be used while `begun` lasts."""
        if self.injection != "layer":
            yield from joint_deltas(self, begun)
        elif self.allocation is not None:
            yield from ragged_deltas(self, begun)
        else:
            for site, probe, weight in self.jobs(begun):
                yield site, probe.delta(weight)

    @contextmanager
    def started(self, loss_fn: LossFn, *inputs: Any) -> Iterator[Started]:
        """The clean run of a step, with what is exact already in `found`; no gradients within the block."""
        if len(inputs) < 2:
            raise UsageError("backward got no target", "Call backward(loss_fn, *inputs, target)")
        check_modes(self.walk.watched)
        key = Key(run=self.seed, step=self.steps, site="lr")
        found: dict[nn.Parameter, Tensor] = {}
        with quiet():
            tape = self.walk.record(inputs[:-1], key, graphs=not {"bp", "exact"}.isdisjoint(self.plan.values()))
            if self.steps == 0 or self.costs is None:
                self.look(tape)
            objective = Objective(loss_fn, inputs[-1])
            clean, residual = clean_losses(self, tape, objective, found)
            if self.costs is None:
                self.costs = count_costs(tape.calls, self.sites(tape, every=True), tape.data, self.visits)
                check_flow(self, tape, inputs[:-1])
            places = self.sites(tape)
            objective.width = self.costs.width
            self.position_credit = position_credit(self.credit, clean) if clean.dim() == 2 else None
            yield Started(tape, objective, clean, places, found, key, residual)

    def jobs(self, begun: Started) -> Iterator[tuple[Site, SiteProbe, Tensor]]:
        """Run the copies of each site in turn: (site, probe, weights [n, b]); to be used while `begun` lasts."""
        slopes = None if self.levels is None else Slopes(self.levels)
        for call, site in begun.places:
            if self.target_cosine is not None and self.steps % RECHECK == 0:
                self.measure(begun, call, site)
            probe = self.probe(begun.tape, call, site, begun.objective, begun.clean, begun.key)
            weight = credited(self, begun.tape, call, site, self.weights(probe))
            if slopes is not None:
                slopes.note(self, begun, site, probe)
            yield site, probe, weight
        if slopes is not None:
            self.levels = slopes.moved()

    def measure(self, begun: Started, call: Call, site: Site) -> None:
        """Estimate a site's kappa by pilot runs, and its copies where a target cosine is set."""
        self.probe(begun.tape, call, site, begun.objective, begun.clean, begun.key)  # noise, sigma, pairs
        memory = self.memory[site.path]
        memory.kappa = site_kappa(self, begun, site, rounds=MEASUREMENTS)
        if self.target_cosine is not None:
            memory.copies = copies_for(self, site, self.target_cosine)

    def measured(self, loss_fn: LossFn, *inputs: Any) -> dict[str, dict[str, float]]:
        """`stats` with every site's kappa and predicted cosine measured on one batch; no gradient is made."""
        with self.started(loss_fn, *inputs) as begun:
            for call, site in begun.places:
                self.measure(begun, call, site)
        return self.stats

    def sites(self, tape: Tape, *, every: bool = False) -> Iterator[tuple[Call, Site]]:
        """Sites of the clean run in forward order: those visited in this step, or every one."""
        for index, part in enumerate(self.walk.parts):
            if part.loose:
                kind = planned(self.plan, part.path) or "weights"
                site = loose_site(part, index)
                if site is not None and kind in ("lr", "channel", "weights"):
                    yield site.call, site
        for call in tape.calls:
            path = call.path.partition("#")[0]
            kind = self.recorded_as(path) if self.flow == "local" else self.kind_of(path)
            found = sites_of(call, kind if self.kind_of(path) != "exact" else "exact")
            for site in (
                found if every or self.visits == 1 else visited(call, found, self.visits, self.seed, self.steps)
            ):
                yield call, site

    def probe(self, tape: Tape, call: Call, site: Site, objective: Objective, clean: Tensor, key: Key) -> SiteProbe:
        """Run the copies of one site."""
        memory = self.memory.get(site.path)
        if memory is None:
            memory = self.memory[site.path] = Memory(dimension=site.clean[0].numel())
        if not memory.noise:
            choose_noise(self, tape, site, objective, memory, key)
        if memory.paired is None or (self.pairing == "auto" and self.steps % RECHECK == 0):
            choose_pairing(self, tape, site, objective, clean, memory, key)
        paired = bool(memory.paired)
        copies = self.copies_at(site.path)
        drawn = copies // 2 if paired else copies
        sigma = level(self, site, memory)
        noise = site_noise(
            "seed" if site.shared else self.cache,
            self.kind(memory),
            key.at(site=f"lr/{site.path}"),
            drawn,
            self.noise_shape(site),
            sigma,
            site.clean,
            self.kept,
        )
        if isinstance(noise, RunningNoise):
            noise.begin(clean, copies)
        probe = run_site(
            self.walk,
            tape,
            site,
            noise,
            objective,
            clean,
            paired=paired,
            stack=self.stack,
            reference=self.reference,
            group=self.group,
        )
        self.runs += probe.runs
        if not finite(probe.signal):
            raise Diverged(
                f"A loss at {site.path} is not finite in step {self.steps} (sigma {memory.sigma:.3g})",
                "Lower sigma or the learning rate",
                site=site.path,
                step=self.steps,
            )
        return probe

    def site_noise(self, site: Site, memory: Memory, key: Key, drawn: int) -> SiteNoise:
        """The directions of a site in this step."""
        return SiteNoise(self.kind(memory), key, drawn, self.noise_shape(site), level(self, site, memory), site.clean)

    def noise_shape(self, site: Site) -> tuple[int, ...]:
        """[b, *site], or [b positions, ...] where each position has losses of its own."""
        shape = tuple(site.clean.shape)
        if self.position_credit is not None and self.position_credit.positions(site):
            return (shape[0] * shape[1], *shape[2:])
        return shape

    def kind(self, memory: Memory) -> Direction:
        """The direction object of a site."""
        return direction(memory.noise)

    def weights(self, probe: SiteProbe) -> Tensor:
        """See `weights.weights`."""
        return weights(self, probe)

    def ask(self, *inputs: Any) -> Tensor:
        """Outputs [R, ...] of the clean run and all copies, for losses made elsewhere; data: `asked.index` [R]."""
        self.asked = ask(self, inputs)
        return self.asked.outputs

    def tell(self, losses: Tensor) -> Tensor:
        """Fill `p.grad` from one loss per row of what was asked [R]; returns the mean clean loss."""
        if self.asked is None:
            raise UsageError("tell got losses that nothing asked for", "Call ask(*inputs) first")
        asked, self.asked = self.asked, None
        return tell(self, asked, losses)

    # What it costs ---------------------------------------------------------------------------------------------------

    @property
    def stats(self) -> dict[str, dict[str, float]]:
        """Per site, of the last step; kappa and the predicted cosine are NaN until `measured`."""
        return {site: site_stats(self, site, memory) for site, memory in self.memory.items()}

    def cost(self) -> tuple[float, float]:
        """Full forward runs per step, and its multiply-accumulates over backpropagation's, as of the last step."""
        if self.costs is None:
            return 0.0, 0.0
        if self.leads:
            return self.costs.jointly(self.leads, self.copies)
        runs = {site: self.copies_at(site) for site in self.costs.suffix}
        return self.costs.forwards(runs), self.costs.over_backprop(runs)

    def copies_at(self, site: str) -> int:
        """Copies of a site."""
        return (self.memory[site].copies if site in self.memory else 0) or self.copies

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, for a checkpoint: data that JSON can hold."""
        return {
            "steps": self.steps,
            "runs": self.runs,
            "smooth_loss": self.smooth_loss,
            "memory": {site: asdict(memory) for site, memory in self.memory.items()},
            "levels": None if self.levels is None else dict(self.levels.sigma),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        self.steps, self.runs, self.smooth_loss = state["steps"], state["runs"], state["smooth_loss"]
        self.memory = {site: Memory(**kept) for site, kept in state["memory"].items()}
        if self.levels is not None:
            self.levels = self.levels.restored(state["levels"])
