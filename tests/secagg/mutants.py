"""Take one check out of secure aggregation, see which test turns red: `python tests/secagg/mutants.py [WORD]`.

Each mutant is one replacement in a copy of the package; a mutant that no test notices is printed as SURVIVED and
makes the exit status 1. Not collected by pytest: it takes minutes. WORD runs only the mutants that contain it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECAGG = "common/undertone/secagg"
# Tests that name what is wrong first, those that only notice last.
ORDER = (
    "test_prg.py",
    "test_parameters.py",
    "../core/test_federation.py",
    "test_messages.py",
    "test_attacks_keys.py",
    "test_attacks_shares.py",
    "test_attacks_lists.py",
    "test_attacks_states.py",
    "test_survivors.py",
    "test_server.py",
    "test_shamir.py",
    "test_vectors.py",
    "test_exactness.py",
    "test_fuzz.py",
)

# (check, file, text that must be there once, what takes its place)
MUTANTS: list[tuple[str, str, str, str]] = [
    # Unmasking: secrets from shares
    (
        "blamed where it is proven",
        "reconstruction.py",
        "proven = self._left > 0 and len(shares) - self._colluders >= self._threshold",
        "proven = True",
    ),
    # Parameters
    ("2t > n + c", "parameters.py", "2 * t <= n + c,", "2 * t < n + c,"),
    ("t - c >= 2", "parameters.py", "(t - c < 2,", "(t - c < 1,"),
    ("c >= 0", "parameters.py", "(c < 0,", "(c < -9,"),
    ("1 <= t <= n", "parameters.py", "(not 1 <= t <= n,", "(False,"),
    ("min_sites", "parameters.py", "(not 2 <= p.min_sites <= n,", "(False,"),
    ("wire bits", "parameters.py", "(p.wire_bits not in (24, 32),", "(False,"),
    ("noise mode", "parameters.py", '(p.noise not in ("central", "distributed"),', "(False,"),
    ("distributed needs c >= 1", "parameters.py", "(distributed and c < 1,", "(False,"),
    ("sigma_local >= 4", "parameters.py", "(distributed and p.sigma_local < _SMALLEST_SIGMA,", "(False,"),
    (
        "central has no local noise",
        "parameters.py",
        "(not distributed and (p.sigma_local, p.noise_margin) != (0, 0),",
        "(False,",
    ),
    ("rosters", "parameters.py", '(p.rosters not in ("chain", "free"),', "(False,"),
    ("no chain with distributed noise", "parameters.py", '(distributed and p.rosters != "free",', "(False,"),
    ("noise margin >= 0", "parameters.py", "(p.noise_margin < 0,", "(False,"),
    ("site clamp >= 1", "parameters.py", "(p.site_clamp < 1,", "(False,"),
    (
        "the sum fits the modulus",
        "parameters.py",
        "n * p.site_clamp + p.noise_margin >= 1 << (p.wire_bits - 1),",
        "False,",
    ),
    ("the margin counts", "parameters.py", "n * p.site_clamp + p.noise_margin >= 1", "n * p.site_clamp >= 1"),
    ("protocol", "parameters.py", "(p.protocol != VERSION,", "(False,"),
    ("names", "parameters.py", "(not all(_NAME.fullmatch(name) for name in names),", "(False,"),
    ("digests", "parameters.py", "(not all(_DIGEST.fullmatch(digest) for digest in digests),", "(False,"),
    ("roster size", "parameters.py", "(not 2 <= len(p.roster) <= LARGEST_ROSTER,", "(False,"),
    ("roster sorted, no duplicates", "parameters.py", "(tuple(sorted(set(p.roster))) != p.roster,", "(False,"),
    (
        "roster has no duplicates",
        "parameters.py",
        "tuple(sorted(set(p.roster))) != p.roster",
        "tuple(sorted(p.roster)) != p.roster",
    ),
    ("round", "parameters.py", "(not 0 <= p.round < 1 << 31,", "(False,"),
    ("attempt", "parameters.py", "(not 0 <= p.attempt < 1 << 31,", "(False,"),
    ("session", "parameters.py", "(not 1 <= p.session < 1 << 31,", "(False,"),
    ("dimension", "parameters.py", "(not 1 <= p.dimension < 1 << 31,", "(False,"),
    ("scale", "parameters.py", "p.scale & (p.scale - 1) == 0", "True"),
    ("types at check", "parameters.py", "if not _well_typed(self):", "if False:"),
    ("types at reading", "parameters.py", "whole = _well_typed(parameters) and", "whole ="),
    ("canonical parameters", "parameters.py", "and parameters.to_bytes() == data", ""),
    ("parameters' size", "parameters.py", "if len(data) > _LARGEST_BYTES:", "if False:"),
    ("own parameters, key by key", "parameters.py", "!= getattr(own, field.name)", "is None"),
    (
        "context covers the parameters",
        "parameters.py",
        'tagged("context", self.to_bytes())',
        'tagged("context", self.study.encode())',
    ),
    # Federation
    ("one key per name", "../core/federation.py", "or len(set(keys)) != len(keys)", ""),
    ("two sites", "../core/federation.py", "len(self.sites) < 2 or ", ""),
    ("manifest names", "../core/federation.py", "isinstance(name, str) and _NAME.fullmatch(name)", "True"),
    ("manifest keys", "../core/federation.py", "isinstance(key, str) and _KEY.fullmatch(key)", "True"),
    ("canonical manifest", "../core/federation.py", "whole = whole and federation.to_bytes() == data", "pass"),
    ("manifest's size", "../core/federation.py", "whole = len(data) <= _LARGEST_BYTES", "whole = True"),
    ("manifest's serial", "../core/federation.py", "not 1 <= self.serial <= _LARGEST_SERIAL", "False"),
    ("manifest before", "../core/federation.py", 'if not (self.predecessor == "" if first else', "if not (True or"),
    ("manifest's CA", "../core/federation.py", "if not _is_digest(self.ca_sha256, may_be_empty=True):", "if False:"),
    ("manifest's time", "../core/clock.py", "if time_text(found) != text:", "if False:"),
    ("manifest expired", "../core/federation.py", "if now >= moment(self.expires):", "if False:"),
    ("manifest names the site", "../core/federation.py", "if site not in self.sites:", "if False:"),
    ("manifest names its key", "../core/federation.py", "if self.sites[site] != key:", "if False:"),
    (
        "manifest signed",
        "../core/federation.py",
        "    check_signature(federation.coordinator, FEDERATION_DOMAIN, federation.digest, signature)\n",
        "",
    ),
    ("manifest approved", "../core/federation.py", "if federation.digest != digest:", "if False:"),
    (
        "manifest's own coordinator",
        "../core/federation.py",
        "if public_hex(coordinator) != federation.coordinator:",
        "if False:",
    ),
    (
        "statements have a domain",
        "../core/federation.py",
        "SECAGG_DOMAIN, digest.hex(), signature.hex()",
        'b"undertone/1/plan\\x00", digest.hex(), signature.hex()',
    ),
    # Messages
    ("version and kind", "encoding.py", "if (version, found) != (VERSION, kind):", "if False:"),
    (
        "session of a message",
        "encoding.py",
        "if self.take(DIGEST_BYTES) != context:",
        "if self.take(DIGEST_BYTES) == b'':",
    ),
    ("enough bytes", "encoding.py", "if end > len(self._data):", "if False:"),
    ("index on the roster", "encoding.py", "if value >= roster:", "if False:"),
    ("entries on the roster", "encoding.py", "index >= roster or ", ""),
    ("entries strictly increasing", "encoding.py", "index <= found[-1][0]", "index < found[-1][0]"),
    ("entries increasing", "encoding.py", " or (found and index <= found[-1][0])", ""),
    ("nothing follows", "encoding.py", "if self._at != len(self._data):", "if False:"),
    ("fields are length-prefixed", "encoding.py", '        state.update(len(field).to_bytes(4, "big"))\n', ""),
    ("bytes", "messages.py", "if not isinstance(data, bytes):", "if False:"),
    # Mask kernel
    ("keys before anything is added", "prg.py", "    _check_keys([*plus, *minus])\n", ""),
    ("keys of 32 bytes", "prg.py", "len(key) != KEY_BYTES", "len(key) not in (16, 24, 32)"),
    ("keys are bytes", "prg.py", "not isinstance(key, bytes) or ", ""),
    ("a vector to mask", "prg.py", "    _check_accumulator(accumulator)\n", ""),
    ("a vector of uint32", "prg.py", "words.dtype == np.uint32 and ", ""),
    ("a contiguous vector", "prg.py", "if not words.flags.c_contiguous:", "if False:"),
    ("a writable vector", "prg.py", "if not accumulator.flags.writeable:", "if False:"),
    ("whole blocks in a chunk", "prg.py", "if chunk_bytes < _BLOCK_BYTES or chunk_bytes % _BLOCK_BYTES:", "if False:"),
    ("three bytes a word", "prg.py", "if source.size % _PACKED_BYTES:", "if False:"),
    ("words that exist", "prg.py", "if offset < 0 or count < 0:", "if False:"),
    ("big-endian counter", "prg.py", 'to_bytes(_BLOCK_BYTES, "big")', 'to_bytes(_BLOCK_BYTES, "little")'),
    ("little-endian words", "prg.py", 'np.dtype("<u4")', 'np.dtype(">u4")'),
    ("memory is bounded", "prg.py", "size = min(chunk_bytes, accumulator.nbytes)", "size = accumulator.nbytes"),
    # Node: who it is
    ("sound parameters at the node", "party.py", "        params.check()\n", ""),
    ("federation at the node", "party.py", "if federation.digest != params.federation:", "if False:"),
    ("roster within the manifest at the node", "party.py", "        if strangers:\n", "        if False:\n"),
    ("own key", "party.py", " or federation.sites[site] != public_hex(identity)", ""),
    (
        "own name",
        "party.py",
        "site not in params.roster or federation.sites",
        "site in params.roster and federation.sites",
    ),
    ("quorum at the node", "party.py", "if len(sites) < self.params.quorum:", "if False:"),
    (
        "quorum is at least min_sites",
        "parameters.py",
        "return max(self.threshold, self.min_sites)",
        "return self.threshold",
    ),
    ("quorum is at least t", "parameters.py", "return max(self.threshold, self.min_sites)", "return self.min_sites"),
    # Node: ShareKeys
    (
        "abs(U1) >= Q",
        "party.py",
        '    party.check_threshold(tuple(advertised.index for advertised in key_list.advertised), "sent keys")\n',
        "",
    ),
    ("own keys", "party.py", "if own not in key_list.advertised:", "if False:"),
    (
        "keys signed",
        "party.py",
        "if not party.federation.signed_by(party.name(advertised.index), digest, advertised.signature):",
        "if False:",
    ),
    (
        "advertised keys statement: seal key",
        "sealing.py",
        'tagged("advert", context, u16(i), seal_public, mask_public, commit)',
        'tagged("advert", context, u16(i), mask_public, commit)',
    ),
    (
        "advertised keys statement: mask key",
        "sealing.py",
        'tagged("advert", context, u16(i), seal_public, mask_public, commit)',
        'tagged("advert", context, u16(i), seal_public, commit)',
    ),
    (
        "advertised keys statement: commitment",
        "sealing.py",
        'tagged("advert", context, u16(i), seal_public, mask_public, commit)',
        'tagged("advert", context, u16(i), seal_public, mask_public)',
    ),
    (
        "advertised keys statement: context",
        "sealing.py",
        'tagged("advert", context, u16(i), seal',
        'tagged("advert", u16(i), seal',
    ),
    (
        "no key of low order",
        "sealing.py",
        "    except ValueError:\n        raise UnfaithfulSite(f",
        "    except ValueError:\n        return bytes(32)\n        raise UnfaithfulSite(f",
    ),
    (
        "low order is found before shares are dealt",
        "party.py",
        "        sealing.check_publics(advertised.seal_key, advertised.mask_key, site=party.name(advertised.index))\n",
        "",
    ),
    # Node: MaskedInput
    ("own inbox", "party.py", "if inbox.index != me:", "if False:"),
    (
        "senders within U1",
        "party.py",
        " or not senders <= {advertised.index for advertised in key_list.advertised}",
        "",
    ),
    ("not its own sender", "party.py", "if me in senders or ", "if "),
    ("abs(U2) >= Q", "party.py", '    party.check_threshold(masked_for, "dealt shares")\n', ""),
    (
        "tags",
        "party.py",
        "        if plaintext is None:\n",
        "        plaintext = plaintext or bytes(66)\n        if False:\n",
    ),
    (
        "shares are field elements",
        "party.py",
        "if not (shamir.is_share(self_shares[j]) and shamir.is_share(mask_shares[j])):",
        "if False:",
    ),
    ("both shares are field elements", "party.py", " and shamir.is_share(mask_shares[j])", ""),
    (
        "associated data: direction",
        "sealing.py",
        'tagged("seal", round_digest, u16(sender), u16(receiver))',
        'tagged("seal", round_digest)',
    ),
    (
        "associated data: round",
        "sealing.py",
        'tagged("seal", round_digest, u16(sender), u16(receiver))',
        'tagged("seal", u16(sender), u16(receiver))',
    ),
    ("vector's length", "party.py", "        and words.shape == (dimension,)\n", ""),
    ("vector's type", "party.py", "        and words.dtype == np.uint32\n", ""),
    ("vector in one block", "party.py", "        and words.flags.c_contiguous\n", ""),
    ("vector writable", "party.py", "        and words.flags.writeable\n", ""),
    ("vector an array", "party.py", "isinstance(words, np.ndarray)\n        and ", ""),
    ("self mask", "node.py", "[own, *(pairs[j] for j in pairs if j > me)]", "[*(pairs[j] for j in pairs if j > me)]"),
    (
        "masks keyed by round",
        "sealing.py",
        'return _derive(secret, round_digest, b"self" + u16(i))',
        'return _derive(secret, bytes(32), b"self" + u16(i))',
    ),
    ("24 bits", "node.py", "if wire_bits < 32:", "if False:"),
    ("the digest is of what leaves", "prg.py", "            finished(piece)\n", "            finished(piece[:0])\n"),
    # Node: ConsistencyCheck
    ("U2 is mine", "node.py", "if lists.masked_for != content.masked_for:", "if False:"),
    ("i in U3", "node.py", "if party.index not in lists.survivors:", "if False:"),
    ("U3 within U2", "node.py", "if not set(lists.survivors) <= set(lists.masked_for):", "if False:"),
    ("abs(U3) >= Q", "node.py", '        party.check_threshold(lists.survivors, "sent a vector")\n', ""),
    (
        "one share per site",
        "node.py",
        "content.self_shares[j] if j in lists.survivors else content.mask_shares[j]",
        "content.self_shares[j]",
    ),
    # The chain of survivor lists
    ("lists form a chain", "node.py", 'if party.params.rosters == "chain":', "if False:"),
    (
        "a list is entered before it is signed",
        "node.py",
        '        if party.params.rosters == "chain":\n',
        "        own = (content.round_digest, lists.masked_for, lists.survivors)\n"
        "        party.sign(sealing.consistency_statement(context, *own))\n"
        '        if party.params.rosters == "chain":\n',
    ),
    ("c + 2 at once", "survivors.py", "< colluders + 2:", "< colluders + 1:"),
    ("not fewer at once", "survivors.py", "if len(last) - len(survivors) < colluders + 2:", "if False:"),
    ("within the last list", "survivors.py", "if not set(survivors) <= set(last):", "if False:"),
    ("the last list again", "survivors.py", "if last is None or survivors == last:", "if last is None:"),
    # Node: Unmasking
    ("t signatures", "node.py", "if len(signatures) < params.threshold:", "if False:"),
    ("signers within U3", "node.py", "if not set(indices_of(signatures)) <= set(content.survivors):", "if False:"),
    (
        "signatures hold",
        "node.py",
        "if not party.federation.signed_by(party.name(index), statement, signature):",
        "if False:",
    ),
    (
        "list statement: R1",
        "sealing.py",
        'tagged("survivors", context, r1, index',
        'tagged("survivors", context, index',
    ),
    (
        "list statement: U2",
        "sealing.py",
        "index_list(masked_for), index_list(survivors))\n\n\ndef unmasking_statement",
        "index_list(survivors))\n\n\ndef unmasking_statement",
    ),
    (
        "list statement: U3",
        "sealing.py",
        "index_list(masked_for), index_list(survivors))\n\n\ndef unmasking_statement",
        "index_list(masked_for))\n\n\ndef unmasking_statement",
    ),
    # Node: states
    ("one answer per state", "node.py", "content, self._content = self._look(), None", "content = self._look()"),
    ("stored state whole", "stored_state.py", 'if tagged("state", body) != digest:', "if False:"),
    ("stored state's site", "stored_state.py", "if reader.index(roster) != index:", "if reader.index(roster) < 0:"),
    ("stored state ends", "stored_state.py", "        reader.done()\n", ""),
    ("newest step", "node.py", "if stored != step:", "if False:"),
    ("a step at all", "stored_state.py", "if not 1 <= step <= 5:", "if False:"),
    (
        "no entropy after AdvertiseKeys",
        "sealing.py",
        "_derive(seed, context, info, 48)",
        "__import__('os').urandom(48)",
    ),
    # Server
    ("sound parameters at the server", "server.py", "        params.check()\n", ""),
    ("federation at the server", "server.py", "federation.digest != params.federation or ", ""),
    (
        "roster within the manifest at the server",
        "server.py",
        " or not set(params.roster) <= set(federation.sites)",
        "",
    ),
    ("quorum at the server", "server.py", "        if len(sites) < needed:\n", "        if False:\n"),
    ("in its own name", "server.py", "if claimed != expected:", "if False:"),
    (
        "signed",
        "server.py",
        "if not self.federation.signed_by(self.params.roster[expected], digest, signature):",
        "if False:",
    ),
    (
        "low order at the server",
        "server.py",
        "        sealing.check_publics(advertised.seal_key, advertised.mask_key, site=self.params.roster[index])\n",
        "",
    ),
    (
        "sealed for all of U1",
        "server.py",
        "sealed.round_digest != self._r1 or indices_of(",
        "sealed.round_digest != self._r1 or False and indices_of(",
    ),
    ("sealed under R1", "server.py", "sealed.round_digest != self._r1 or ", ""),
    (
        "vector's form at the server",
        "server.py",
        "if not (isinstance(words, np.ndarray) and",
        "if False and (isinstance(words, np.ndarray) and",
    ),
    ("24 bits at the server", "server.py", "if self.params.wire_bits < 32 and int", "if False and int"),
    ("vector's digest", "server.py", "if digest != proof.digest:", "if False:"),
    ("one vector per site", "server.py", " or index in self._proofs", ""),
    ("vector from U2", "server.py", " or index not in self._u2", ""),
    ("no second try for a vector", "server.py", " or site in self.dropped", ""),
    ("no late vector", "server.py", 'if self._step != "masked_input" or index', "if index"),
    ("masked statement: U2", "sealing.py", "u16(i), index_list(masked_for), digest)", "u16(i), digest)"),
    ("shares are for all of U2", "server.py", "if indices_of(shares.shares) != self._u2 or", "if"),
    (
        "revealed shares are field elements",
        "server.py",
        " or not all(is_share(share) for _, share in shares.shares)",
        "",
    ),
    ("b_j is what h_j says", "server.py", "sealing.commitment(self.params.context, owner, secret) == expected", "True"),
    ("cm_j is what m_j says", "server.py", "sealing.public_of(secret) == expected", "True"),
    ("stages in order", "server.py", "        if self._step != step:\n", "        if False:\n"),
    (
        "a failed stage ends the session",
        "server.py",
        '        self._step = "over"\n\n    def _order',
        "\n    def _order",
    ),
    (
        "the commitment names its site and session",
        "sealing.py",
        'tagged("commit", context, u16(i), self_secret)',
        'tagged("commit", self_secret)',
    ),
    # Unmasking: secrets from shares
    ("liars are named", "reconstruction.py", "                if turn:\n", "                if False:\n"),
    ("known liars last", "reconstruction.py", "key=lambda point: (point in liars, point)", "key=lambda point: point"),
    ("the search ends", "reconstruction.py", "            if self._left == 0:\n", "            if False:\n"),
    (
        "a secret is 32 bytes",
        "shamir.py",
        "if value < 1 << (8 * SECRET_BYTES) else None",
        'if value.to_bytes(40, "big") else None',
    ),
    # Transcript
    ("canonical transcript", "transcript.py", "canonical_json(content) != data or ", ""),
    ("transcript's federation", "transcript.py", " or federation.digest != params.federation", ""),
    (
        "sets within each other",
        "transcript.py",
        "if not set(u5) <= set(u4) <= set(u3) <= set(u2) <= set(u1):",
        "if False:",
    ),
    (
        "enough sites in the transcript",
        "transcript.py",
        "if len(u3) < params.quorum or len(u5) < params.threshold:",
        "if False:",
    ),
    ("round digest", "transcript.py", 'if r1 != _bytes(content["round_digest"], 32):', "if False:"),
    (
        "transcript's signatures",
        "transcript.py",
        "if not federation.signed_by(name[i], digest, signature):",
        "if False:",
    ),
    ("named once", "transcript.py", "if len(set(named)) != len(named):", "if False:"),
    ("transcript's parameters sound", "transcript.py", "        params.check()\n", ""),
    ("lower-case", "transcript.py", " or value.hex() != text", ""),
]

# The same around the protocol, at the node and at the coordinator: paths from the root, other tests.
AROUND_ORDER = (
    "server/collect/test_secure_rounds.py",
    "client/round/test_noise_shares.py",
    "server/test_gate.py",
    "study/test_aggregation.py",
    "client/test_node.py",
    "server/collect/test_lying_sites.py",
    "server/collect/test_names.py",
)
CLIENT, SERVER = "client/undertone_client", "server/undertone_server"
AROUND: list[tuple[str, str, str, str]] = [
    (
        "session numbers rise",
        f"{CLIENT}/round/session.py",
        "if step == _ADVERTISE_KEYS and number <= session:",
        "if False:",
    ),
    ("parameters are this node's own", f"{CLIENT}/round/session.py", "        agree(self.request.body, params)\n", ""),
    (
        "step follows the newest",
        f"{CLIENT}/round/session.py",
        "if step != _ADVERTISE_KEYS and (session, done) != (number, step - 1):",
        "if False:",
    ),
    ("step durable before it is taken", f"{CLIENT}/round/session.py", "        self._enter_step(step)\n", ""),
    ("no secret stays", f"{CLIENT}/round/session.py", "        self._path.unlink(missing_ok=True)\n", ""),
    (
        "plain only by consent",
        f"{CLIENT}/site/violations.py",
        'plan.aggregation.mode == "plain" and not policy.allow_plain',
        "False",
    ),
    ("manifest pinned", f"{CLIENT}/site/folder.py", "if pinned is None:", "if False:"),
    (
        "manifest is this coordinator's",
        f"{CLIENT}/site/folder.py",
        "if federation.coordinator != self.policy.coordinators.get(coordinator):",
        "if False:",
    ),
    ("manifest holds now", f"{CLIENT}/site/folder.py", "        federation.check_current(now())\n", ""),
    (
        "charged before the vector leaves",
        f"{CLIENT}/round/attempt.py",
        "        receipt = self._charge(clipped.values)\n        if self.plan.privacy.noise",
        "        if self.plan.privacy.noise",
    ),
    (
        "no second vector of equal rows",
        f"{CLIENT}/site/budget.py",
        "once_per_round=stage.once_per_round,",
        "once_per_round=False,",
    ),
    (
        "no second answer to a round",
        f"{CLIENT}/node.py",
        "if again and plan.stage_of(request.round).once_per_round:",
        "if False:",
    ),
    (
        "no second answer to an attempt",
        f"{CLIENT}/node.py",
        "if again and charge.attempt == request.attempt:",
        "if False:",
    ),
    ("a noise share is added", f"{CLIENT}/round/noise_share.py", "clipped.values + noise", "clipped.values"),
    (
        "a noise share of the plan's size",
        f"{CLIENT}/round/noise_share.py",
        "entropy, stage.sigma_local,",
        "entropy, 4,",
    ),
    ("a noise share after its receipt", f"{CLIENT}/round/noise_share.py", "if receipt.event != stage.event or", "if"),
    (
        "a share on the plan's bound",
        f"{CLIENT}/round/noise_share.py",
        "if clipped.sensitivity != ",
        "if False and clipped.sensitivity != ",
    ),
    (
        "no noise share with central noise",
        f"{CLIENT}/round/noise_share.py",
        'if plan.privacy.noise != "distributed":',
        "if False:",
    ),
    (
        "charged before the sum is opened",
        f"{SERVER}/collect/secure_round.py",
        "        before_unmasking(sha256_hex(signatures))\n",
        "",
    ),
    (
        "enough sites in a central sum",
        f"{SERVER}/gate.py",
        'quorum:\n        raise MechanismViolation(f"a sum of',
        'quorum < 0:\n        raise MechanismViolation(f"a sum of',
    ),
    (
        "enough noise shares",
        f"{SERVER}/gate.py",
        'quorum:\n        raise MechanismViolation(f"{len(total.sites)} noise shares',
        'quorum < 0:\n        raise MechanismViolation(f"{len(total.sites)} noise shares',
    ),
    (
        "a receipt for the opened sum",
        f"{SERVER}/gate.py",
        "if receipt is None or receipt.event != stage.event:",
        "if False:",
    ),
    (
        "a receipt of the opened sum's attempt",
        f"{SERVER}/gate.py",
        "if (receipt.digest, receipt.round, receipt.attempt) != (plan.digest, attempt.round, attempt.number):",
        "if False:",
    ),
    ("noise shares of the plan's size", f"{SERVER}/gate.py", " or total.sigma_local != stage.sigma_local", ""),
    ("the inbox before the charge", f"{CLIENT}/round/session.py", "        keys_shared.check(self.request.body)\n", ""),
    ("more than c accusers", f"{SERVER}/collect/sites.py", "len(accusers) > more_than", "len(accusers) > 0"),
    (
        "another session of the attempt",
        f"{SERVER}/collect/secure_round.py",
        "if not guilty or not guilty.issuperset(session.server.survivors):",
        "if True:",
    ),
    ("a site proves its name", f"{SERVER}/collect/sites.py", "reply.error and proves(", "reply.error and bool("),
]

# The chain of survivor lists around the protocol: the node's ledger, the coordinator.
CHAIN_ORDER = ("secagg/test_survivors.py", "server/collect/test_survivor_lists.py")
CHAIN: list[tuple[str, str, str, str]] = [
    (
        "the newest list counts",
        f"{CLIENT}/round/signed_lists.py",
        "for entry in reversed(entries):",
        "for entry in entries:",
    ),
    ("lists of this study", f"{CLIENT}/round/signed_lists.py", ' and entry.body.get("digest") == digest', ""),
    (
        "no strangers in a list",
        f"{CLIENT}/round/signed_lists.py",
        "if not isinstance(sites, list) or not all(site in roster for site in sites):",
        "if False:",
    ),
    (
        "checked within the transaction",
        f"{CLIENT}/round/signed_lists.py",
        """                "sites": [roster[index] for index in survivors],
            },
            follows,
        )""",
        """                "sites": [roster[index] for index in survivors],
            }
            | (follows(self.ledger.entries()) or {}),
        )""",
    ),
    (
        "free lists only by consent",
        f"{CLIENT}/site/violations.py",
        "if plan.free_rosters and not policy.allow_free_rosters:",
        "if False:",
    ),
    (
        "the list is durable before it is signed",
        f"{SERVER}/collect/secure_round.py",
        "            enter_list(attempt, inboxes, survivors)\n",
        "            pass\n",
    ),
    (
        "the list is kept to",
        f"{SERVER}/collect/gathering.py",
        "self._kept = attempt.run.kept_survivors()",
        "self._kept = None",
    ),
    (
        "all of the list are ready",
        f"{SERVER}/collect/gathering.py",
        "if not away:\n            for",
        "if True:\n            for",
    ),
    ("all of the list have sent", f"{SERVER}/collect/gathering.py", "if kept is not None and missing:", "if False:"),
    (
        "the coordinator keeps to the chain",
        f"{SERVER}/collect/gathering.py",
        "    check_follows(last, tuple(sorted(map(roster.index, survivors))), plan.aggregation.colluders)\n",
        "",
    ),
    (
        "c + 2 at once at the coordinator",
        f"{SERVER}/collect/gathering.py",
        "max(len(gone), plan.aggregation.colluders + 2)",
        "len(gone)",
    ),
    (
        "no shrinking below the quorum",
        f"{SERVER}/collect/gathering.py",
        "if len(kept) - fewer < plan.quorum:",
        "if False:",
    ),
    (
        "no attempts wasted on refusals",
        f"{SERVER}/collect/secure_round.py",
        "if any(reason.startswith",
        "if False and any(reason.startswith",
    ),
]


def first_red_test(folder: Path, tests: list[str], file: str, old: str, new: str) -> str:
    """The first of `tests` that fails on the mutant; "" if none does."""
    path = folder / file
    source = path.read_text(encoding="utf-8")
    if source.count(old) != 1:
        raise SystemExit(f"{file}: {old!r} is there {source.count(old)} times; repair the list of mutants")
    path.write_text(source.replace(old, new), encoding="utf-8")
    packages = os.pathsep.join(str(folder / name) for name in ("common", "client", "server", "deployments"))
    # -B and no cache: a mutant of the same length and second must not be taken for the one before it.
    options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    command = [sys.executable, "-B", "-m", "pytest", *options]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": packages},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    finally:
        path.write_text(source, encoding="utf-8")
    red = [line for line in done.stdout.splitlines() if line.startswith(("FAILED tests/", "ERROR tests/"))]
    return red[0].split(" ")[1].removeprefix("tests/") if done.returncode and red else ""


def copied(folder: Path) -> Path:
    """The package and its tests in an empty folder."""
    for part in ("common", "client", "server", "deployments", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    survived = 0
    with tempfile.TemporaryDirectory() as name:
        folder = copied(Path(name))
        inside = [(check, f"{SECAGG}/{file}", old, new) for check, file, old, new in MUTANTS]
        suites = [
            (inside, [f"tests/secagg/{name}" for name in ORDER]),
            (AROUND, [f"tests/{name}" for name in AROUND_ORDER]),
            (CHAIN, [f"tests/{name}" for name in CHAIN_ORDER]),
        ]
        for mutants, order in suites:
            for check, file, old, new in mutants:
                if word in check or word in file:
                    red = first_red_test(folder, order, file, old, new)
                    survived += not red
                    print(f"| {check} | {file} | {red or 'SURVIVED'} |", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
