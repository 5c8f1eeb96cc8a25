//! Seeds that once broke a rule, or break one with a guard taken away: they must hold for good, and mutants are run on them
//! first.
//! What a seed draws changes with the simulator, so that it may show something else today.

/// Wide seeds that once broke a rule, and what they showed.
pub const PINNED_WIDE: &[(u64, &str)] = &[
    (
        5_636,
        "with a guard taken away, an import went on after a stall on what was known before",
    ),
    (
        8_685,
        "an export that outlasted a stall was waited for without rest",
    ),
    (
        130_255,
        "a long lease whose proof had lapsed was to be renewed until now, which a kernel refuses: it went on",
    ),
    (
        141_541,
        "a takeover that yielded forgot the lease that the keys it had removed told of",
    ),
];

/// Each seed of the usual width and what it showed.
pub const PINNED: &[(u64, &str)] = &[
    (
        683,
        "two disks, one gone: an import that waits for a proof ends",
    ),
    (
        2_150,
        "a roll that said another phase counted for the long lease",
    ),
    (
        2_564,
        "with a guard taken away, a handover began while a pool was still being imported",
    ),
    (
        3_727,
        "a held peer's key of an earlier incarnation was never taken back",
    ),
    (
        3_811,
        "with a guard taken away, a repair preempted a newer owner",
    ),
    (
        7_050,
        "dead by a look whose successor was overdue, while the owner rolled",
    ),
    (
        9_507,
        "an import with what was left of the won disks, fewer than half",
    ),
    (
        10_777,
        "with a guard taken away, keys that a taker had left behind stayed for ever",
    ),
    (
        12_719,
        "a stop that was taken back was forgotten, and no service started any more",
    ),
    (
        14_038,
        "a repair that ended after the handover was kept by the standby",
    ),
    (
        15_856,
        "no repair without a peer, since nothing proved a single controller's disks",
    ),
    (18_057, "the same, on the other controller"),
    (
        18_156,
        "beats slower than a stall: every idle pause counted as one",
    ),
    (
        26_252,
        "a handover taken up although its controller took the disks again",
    ),
    (31_171, "an import on a majority that was gone meanwhile"),
    (
        32_676,
        "a suspended pool of an earlier run wrote to a shelf that forgot its reservations",
    ),
    (36_874, "the same, on the other controller"),
    (
        43_156,
        "a daemon that stopped while starting left a pool imported",
    ),
    (46_123, "adoption by an own, older arbiter list"),
    (
        54_511,
        "a foreign host took a disk between the fence and the import",
    ),
    (55_473, "the answer to an offer stayed on a disk for good"),
    (
        56_149,
        "a daemon that stopped while starting left a pool imported",
    ),
    (
        57_265,
        "a slow sweep ended in an import after the peer had taken everything",
    ),
    (62_398, "the wait for a taker turned without rest"),
    (
        62_524,
        "a loser's key of the owner's own epoch was never taken back",
    ),
    (
        69_939,
        "blank disks told nothing of a frozen owner's long lease",
    ),
    (
        74_160,
        "the answer to an offer stayed on a disk that is no arbiter any more",
    ),
    (
        74_953,
        "adoption by the arbiters, while the peer had more than half of all disks",
    ),
    (
        81_573,
        "a handed-over disk was surveyed again and again while the journal failed",
    ),
    (
        85_789,
        "a handover went back by the arbiters, while the peer had more than half of all disks",
    ),
    (
        86_166,
        "a candidate key of an earlier run of the standby stayed on a disk",
    ),
    (
        88_020,
        "a disk that was never looked at was rolled, and so never looked at",
    ),
    (
        95_827,
        "dead by looks from before it yielded, while the owner had begun to roll",
    ),
    (
        97_266,
        "an offered disk was surveyed again and again while the journal failed",
    ),
];
