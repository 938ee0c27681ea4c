//! Jobs run in this process, against what a few lines of plain Rust give.

use std::collections::HashMap;

use perennial::prelude::*;

const PARALLELISMS: [u32; 4] = [1, 2, 3, 4];

fn env(parallelism: u32) -> StreamExecutionEnvironment {
    let env = StreamExecutionEnvironment::local();
    env.set_parallelism(parallelism);
    env
}

fn sorted<T: Ord>(mut records: Vec<T>) -> Vec<T> {
    records.sort();
    records
}

const TEXT: &str = "the quick brown fox jumps over the lazy dog\n the dog sleeps ; the fox does not\n\n fox";

fn expected_counts() -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for word in TEXT.split_whitespace() {
        *counts.entry(word.to_owned()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn word_count_equals_a_hash_map_at_every_parallelism() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let words = env
            .from_collection(TEXT.lines().map(str::to_owned))
            .rebalance()
            .flat_map(|line: String, out| out.extend(line.split_whitespace().map(str::to_owned)));
        let counts = words.key_by(|word: &String| word.clone()).count();
        let counted = counts.execute_and_collect().unwrap();
        assert_eq!(counted.len(), TEXT.split_whitespace().count(), "every record emits");
        let mut last = HashMap::new();
        for (word, count) in counted {
            let most = last.entry(word).or_insert(0);
            *most = count.max(*most);
        }
        assert_eq!(last, expected_counts());
    }
}

#[test]
fn aggregations_can_emit_once_at_the_end() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let words = env.from_collection(TEXT.split_whitespace().map(str::to_owned));
        let counts = words.rebalance().map(|word| word).key_by_ref(|word| word).emit_at_end().count();
        let counted = counts.execute_and_collect().unwrap();
        assert_eq!(counted.len(), expected_counts().len());
        assert_eq!(counted.into_iter().collect::<HashMap<_, _>>(), expected_counts());
    }
}
