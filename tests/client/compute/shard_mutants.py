"""Take one check of shards out, see its test turn red: `python -m tests.client.compute.shard_mutants [WORD]`.

Each mutant names the test that guards it. Not collected by pytest: it takes minutes.
"""

import sys

from tests.support.mutants import run_mutants

COMMON, CLIENT, SERVER = "common/undertone", "client/undertone_client", "server/undertone_server"
NODE, PLAN, ROUNDS = "client/compute/test_shards.py", "study/test_shards.py", "server/test_sharded_rounds.py"
_ONE_UNIT = f"{NODE}::test_one_unit_moves_nothing_of_another_shard_in_three_rounds"
_ORACLE = f"{NODE}::test_a_sites_sum_is_that_of_an_oracle_over_its_shards"
_BROKEN = f"{NODE}::test_whatever_a_shard_causes_is_its_zero_row_and_its_memory_stays"
_PEOPLE = f"{PLAN}::test_people_are_counted_by_the_public_figures_and_not_by_shards"
_HIDDEN = f"{PLAN}::test_a_plan_that_hides_its_shards_is_refused_by_who_knows_the_method"
_FIGURES = f"{PLAN}::test_a_plan_of_shards_is_refused_where_its_figures_do_not_agree"
_SPLIT = "            number = shard_of(secret, unit, shards)\n"

# (check, file, text that must be there once, what takes its place, the test that turns red)
MUTANTS: list[tuple[str, str, str, str, str]] = [
    # The split
    (
        "split by position",
        f"{CLIENT}/compute/splitting.py",
        _SPLIT,
        "            number = sorted(one for one in units if entering(one)).index(unit) % shards\n",
        _ONE_UNIT,
    ),
    (
        "small shards merged",
        f"{CLIENT}/compute/splitting.py",
        _SPLIT,
        f"{_SPLIT}            beside = [one for one in units if entering(one)]\n"
        "            beside = [one for one in beside if shard_of(secret, one, shards) == number]\n"
        "            number = number if len(beside) > 3 else 0\n",
        _ONE_UNIT,
    ),
    (
        "one stream for all shards",
        f"{COMMON}/privacy/shards.py",
        'round_.to_bytes(8, "big"), shard.to_bytes(8, "big"))',
        'round_.to_bytes(8, "big"))',
        "privacy/test_shards.py::test_each_shard_has_its_own_randomness_in_each_round_and_study",
    ),
    (
        "what was made of other records is used",
        f"{CLIENT}/compute/splitting.py",
        "canonical_json(one))[:CONTENT_BYTES]",
        "canonical_json([]))[:CONTENT_BYTES]",
        f"{NODE}::test_a_record_that_changed_is_missing_from_its_shard_alone",
    ),
    (
        "who withdrew a moment ago is looked for",
        f"{CLIENT}/compute/preparing.py",
        "self._sum_kept_rows(registration, read.withdrawn)",
        "self._sum_kept_rows(registration)",
        f"{NODE}::test_who_withdraws_while_rows_are_made_is_in_no_sum",
    ),
    # Delta and N_i
    (
        "Delta = s C",
        f"{COMMON}/privacy/stages.py",
        "PER_SHARD: 2}",
        "PER_SHARD: 1}",
        f"{NODE}::test_a_pair_reaches_nearly_twice_the_clip_bound",
    ),
    (
        "a node's sum says which relation its bound is of",
        f"{CLIENT}/round/contribution.py",
        "stage.grid.as_grid(), stage.relation)",
        "stage.grid.as_grid())",
        f"{NODE}::test_the_sum_carries_twice_the_clip_bound_and_its_relation",
    ),
    (
        "noise for Delta of two rows",
        f"{COMMON}/study/settling.py",
        "ceil(self.multiplier * self.sensitivity(clip_units))",
        "ceil(self.multiplier * clip_units)",
        f"{PLAN}::test_a_study_of_shards_is_planned_with_n_i_as_many_as_shards",
    ),
    (
        "every shard answers every round",
        f"{COMMON}/study/stage.py",
        "if self.relation == PER_SHARD and self.sampling_rate != 1:",
        "if False:",
        _FIGURES,
    ),
    (
        "counting images instead of shards",
        f"{COMMON}/study/resolve.py",
        "    return dict.fromkeys(people, method.shards)\n",
        "    return people\n",
        f"{PLAN}::test_a_study_of_shards_is_planned_with_n_i_as_many_as_shards",
    ),
    (
        "N_i is the number of shards",
        f"{COMMON}/study/planned_parts.py",
        "        if set(self.units.values()) != {shards}:\n",
        "        if False:\n",
        _FIGURES,
    ),
    (
        "coordinator and node ask the method for its shards",
        f"{COMMON}/study/planned.py",
        "    check_shards(method, plan)\n",
        "",
        _HIDDEN,
    ),
    (
        "a site asks the method for its shards before it approves",
        f"{CLIENT}/approval/checks.py",
        "    check_shards(method, plan)\n",
        "",
        _HIDDEN,
    ),
    (
        "an ancestor's method is asked for its shards",
        f"{COMMON}/study/planned.py",
        "    if ancestor is not None:\n",
        "    if False:\n",
        f"{PLAN}::test_a_plan_whose_ancestor_hides_its_shards_is_refused",
    ),
    (
        "the 1/N check counts people",
        f"{COMMON}/study/claim.py",
        "sum(plan.patients.values())",
        "sum(plan.cohort.units.values())",
        _PEOPLE,
    ),
    (
        "minimum patients counts people",
        f"{CLIENT}/site/violations.py",
        "sum(plan.patients.values())",
        "sum(plan.cohort.units.values())",
        _PEOPLE,
    ),
    (
        "a site publishes people",
        f"{CLIENT}/approval/checks.py",
        "plan.patients[site.config.site]",
        "plan.cohort.units[site.config.site]",
        f"{PLAN}::test_a_site_publishes_its_people",
    ),
    # Memory
    (
        "memory advanced by an attempt that was not charged",
        f"{CLIENT}/compute/preparing.py",
        "[(one.round, one.attempt) for one in ledger.charges(self.plan.digest)]",
        "[key[1:] for key in self.store._attempts(self.plan.digest)]",
        f"{NODE}::test_an_attempt_that_was_not_charged_moves_no_memory",
    ),
    (
        "memory advanced by an attempt of the same round",
        f"{CLIENT}/compute/preparing.py",
        "(one for one in reversed(charged) if one[0] != round_)",
        "(key[1:] for key in reversed(self.store._attempts(self.plan.digest)) if key != self.attempt)",
        f"{NODE}::test_another_attempt_of_a_round_gives_the_same_rows",
    ),
    (
        "discriminator shared between shards",
        f"{CLIENT}/compute/shard_rows.py",
        "earlier.of(shard)[1]",
        "earlier.of(missing[0])[1]",
        _ORACLE,
    ),
    (
        "memory of a unit that withdrew is erased",
        f"{CLIENT}/compute/shard_store.py",
        "                    ShardMemory(DiskArray.found(path)).erase_others(shards)\n",
        "                    continue\n",
        f"{NODE}::test_who_withdraws_between_rounds_leaves_no_memory_to_the_next",
    ),
    (
        "memory of a unit that withdrew is not used",
        f"{CLIENT}/compute/shard_store.py",
        "        if content != shard.content or seal",
        "        if seal",
        f"{NODE}::test_memory_of_other_records_or_of_another_shard_is_none",
    ),
    (
        "a row whose memory a power cut took",
        f"{CLIENT}/compute/shard_rows.py",
        "shard.row_name(self._begins) in done and (memory is None or memory.of(shard)[0])",
        "shard.row_name(self._begins) in done",
        f"{NODE}::test_memory_that_a_power_cut_took_is_made_again_beside_a_durable_row",
    ),
    (
        "rows of one attempt that begin with two memories",
        f"{CLIENT}/compute/shard_store.py",
        """{self.content.hex()} {before}\"""",
        """{self.content.hex()} \"""",
        f"{NODE}::test_all_rows_of_an_attempt_begin_with_the_memory_of_one_attempt",
    ),
    (
        "memory that was charged erased by whoever asks for an earlier attempt",
        f"{CLIENT}/compute/shard_rows.py",
        "here | {one for one in self.charged if one[0] in rounds}",
        "here | ({self.before} if self.before else set())",
        f"{NODE}::test_preparing_an_earlier_attempt_erases_no_memory_that_was_charged",
    ),
    # What goes wrong
    (
        "NaN is a zero row",
        f"{CLIENT}/compute/shard_rows.py",
        "    if not np.isfinite(found).all():\n",
        "    if False:\n",
        _BROKEN,
    ),
    (
        "any exception is a zero row",
        f"{CLIENT}/compute/shard_rows.py",
        "        except Exception as error:  # noqa: BLE001 - as above\n",
        "        except ValueError as error:\n",
        _BROKEN,
    ),
    (
        "random data before records",
        f"{CLIENT}/compute/preparing.py",
        "        worker.check()\n",
        "",
        f"{NODE}::test_a_site_that_cannot_compute_random_data_says_so_before_it_looks_at_records",
    ),
    (
        "a query that no coordinator can have made",
        f"{CLIENT}/compute/preparing.py",
        "            method.check_query(pinned, self.state, self.attempt[1])\n",
        "",
        f"{NODE}::test_a_query_that_no_coordinator_can_have_made_is_refused_before_anything_is_made",
    ),
    # The coordinator
    (
        "a query once for all attempts of a round",
        f"{SERVER}/rounds.py",
        "        if kept is not None:\n            return kept\n        query",
        "        query",
        f"{ROUNDS}::test_a_query_is_made_once_for_all_attempts_of_a_round",
    ),
    (
        "a step takes the query that was sent",
        f"{SERVER}/rounds.py",
        "        sent = self._sent(round_, state)\n        updated",
        "        sent = self._method(round_).query(self.base(), state)  # type: ignore[attr-defined]\n        updated",
        f"{ROUNDS}::test_a_query_is_made_once_for_all_attempts_of_a_round",
    ),
    (
        "a step goes through the student",
        f"{SERVER}/update.py",
        "    if isinstance(method, ShardedMethod):\n",
        "    if False:\n",
        f"{ROUNDS}::test_federated_equals_centralised",
    ),
]

if __name__ == "__main__":
    sys.exit(run_mutants((check, file, old, new, [test]) for check, file, old, new, test in MUTANTS))
