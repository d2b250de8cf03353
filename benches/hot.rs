//! Micro-benchmarks of the functions every call passes.
//! Not here: whole calls (`gateway`).

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("nothing", |bencher| bencher.iter(|| ()));
    criterion.final_summary();
}
