//! Rows of a table of settings in which every choice of a few settings stands together at least once.
//!
//! Most faults need one or two settings to show; a cover of all pairs finds those in tens of rows where the full product has tens
//! of thousands.

use std::collections::BTreeSet;

use bywash_tests::kernel::Random;

/// Settings of a row, each an index below its count.
pub(crate) type Row<const N: usize> = [usize; N];

/// Settings and what each is: `strength` of them.
type Together = Vec<(usize, usize)>;

/// Candidates of which the best becomes the next row.
const CANDIDATES: usize = 30;

/// A cover of all choices of `strength` settings. The same for the same arguments.
pub(crate) fn cover<const N: usize>(counts: Row<N>, strength: usize) -> Vec<Row<N>> {
    let mut open: BTreeSet<Together> = BTreeSet::new();
    extend(&counts, strength, &mut Vec::new(), &mut open);
    let mut random = Random::new(1);
    let mut rows = Vec::new();
    while let Some(first) = open.first().cloned() {
        let candidate = |_| {
            let mut row: Row<N> = std::array::from_fn(|at| random.below(counts[at]));
            // Whatever else it has: every row closes something.
            for (at, value) in &first {
                row[*at] = *value;
            }
            row
        };
        let candidates: Vec<Row<N>> = (0..CANDIDATES).map(candidate).collect();
        let closes = |row: &Row<N>| open.iter().filter(|one| holds(row, one)).count();
        let best = candidates.into_iter().max_by_key(closes);
        let best = best.expect("there are candidates");
        open.retain(|one| !holds(&best, one));
        rows.push(best);
    }
    rows
}

fn holds<const N: usize>(row: &Row<N>, together: &Together) -> bool {
    together.iter().all(|(at, value)| row[*at] == *value)
}

/// All choices of `left` more settings behind those of `chosen`.
fn extend(counts: &[usize], left: usize, chosen: &mut Together, all: &mut BTreeSet<Together>) {
    if left == 0 {
        all.insert(chosen.clone());
        return;
    }
    let next = chosen.last().map_or(0, |(at, _)| at + 1);
    for at in next..counts.len() {
        for value in 0..counts[at] {
            chosen.push((at, value));
            extend(counts, left - 1, chosen, all);
            chosen.pop();
        }
    }
}

#[test]
fn every_pair_stands_in_some_row() {
    let counts = [2, 3, 4, 3];
    let rows = cover(counts, 2);
    for (a, b) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
        let pairs: BTreeSet<_> = rows.iter().map(|row| (row[a], row[b])).collect();
        assert_eq!(pairs.len(), counts[a] * counts[b], "{a} and {b}");
    }
    assert!(rows.len() < 24, "a third of the product: {}", rows.len());
}
