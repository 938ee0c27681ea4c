//! Files and sockets through jobs that run in this process.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use perennial::prelude::*;
use perennial_connectors::prelude::*;

fn env(parallelism: u32) -> StreamExecutionEnvironment {
    let env = StreamExecutionEnvironment::local();
    env.set_parallelism(parallelism);
    env
}

fn sorted<T: Ord>(mut records: Vec<T>) -> Vec<T> {
    records.sort();
    records
}

/// The whole error with its causes.
fn text_of(error: JobError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[test]
fn every_line_is_read_once_whatever_the_number_of_subtasks() {
    let dir = tempfile::tempdir().unwrap();
    let texts = ["a\nbb\n\nccc", "", "\n", "one line without end", "x\r\ny\r\n", "ends\nwith\nnewline\n"];
    let mut expect = Vec::new();
    fs::create_dir(dir.path().join("sub")).unwrap();
    for (index, text) in texts.iter().enumerate() {
        let place = if index % 2 == 0 { dir.path().to_owned() } else { dir.path().join("sub") };
        fs::write(place.join(format!("{index}.txt")), text).unwrap();
        expect.extend(text.lines().map(str::to_owned));
    }
    fs::write(dir.path().join(".hidden"), "hidden").unwrap();
    fs::write(dir.path().join("_SUCCESS"), "marker").unwrap();
    let expect = sorted(expect);
    for parallelism in 1..=9 {
        let lines = env(parallelism).read_text_file(dir.path()).execute_and_collect().unwrap();
        assert_eq!(sorted(lines), expect, "parallelism {parallelism}");
    }
    let pattern = dir.path().join("s*/*.txt");
    let lines = env(2).read_text_file(pattern).execute_and_collect().unwrap();
    assert_eq!(sorted(lines), ["ends", "newline", "one line without end", "with"]);
}

#[test]
fn large_files_are_read_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("numbers");
    let lines: Vec<Vec<u8>> =
        (0..100_000u32).map(|n| format!("{n} \u{e4}{}", "x".repeat(n as usize % 40)).into_bytes()).collect();
    let mut bytes = lines.join(&b'\n');
    bytes.extend_from_slice(b"\nraw \xff\xfe\r");
    fs::write(&file, bytes).unwrap();
    let mut expect = lines;
    expect.push(b"raw \xff\xfe\r".to_vec());
    for parallelism in [1, 3, 8] {
        let read = env(parallelism).read_lines_as_bytes(&file).execute_and_collect().unwrap();
        assert!(sorted(read) == sorted(expect.clone()), "parallelism {parallelism}");
    }
}

#[test]
fn unreadable_input_fails_with_file_and_place() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.txt");
    let error = text_of(env(1).read_text_file(&missing).execute_and_collect().unwrap_err());
    assert!(error.contains(&format!("cannot read {}", missing.display())), "{error}");
    let error = text_of(env(1).read_text_file(dir.path().join("*.txt")).execute_and_collect().unwrap_err());
    assert!(error.contains("no file matches"), "{error}");
    let error = text_of(env(1).read_text_file("no-such-file").execute_and_collect().unwrap_err());
    assert!(error.contains("an absolute path"), "{error}");

    let bad = dir.path().join("bad.txt");
    fs::write(&bad, b"fine\nnot \xff fine\n").unwrap();
    let error = text_of(env(1).read_text_file(&bad).execute_and_collect().unwrap_err());
    assert!(error.contains(&format!("the line at byte 5 of {} is not UTF-8 text", bad.display())), "{error}");
    let error = text_of(env(1).read_csv_file::<(String, u8)>(&bad).execute_and_collect().unwrap_err());
    assert!(error.contains("the line at byte 0 of") && error.contains("field 2 is missing"), "{error}");
}

fn parts(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    sorted(names.collect())
}

#[test]
fn text_is_written_in_parts_and_nothing_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a/b");
    let write = |parallelism| {
        let env = env(parallelism);
        env.from_sequence(0..1000).map(|n| (n, n * n)).write_as_text(&out);
        env.execute("write")
    };
    write(3).unwrap();
    assert_eq!(parts(&out), ["part-0", "part-1", "part-2"]);
    let lines = env(2).read_text_file(&out).execute_and_collect().unwrap();
    assert_eq!(sorted(lines), sorted((0..1000).map(|n| format!("({n},{})", n * n)).collect()));

    let error = text_of(write(3).unwrap_err());
    assert!(error.contains("is already there; remove it or choose another directory"), "{error}");
    fs::remove_file(out.join("part-0")).unwrap();
    let error = text_of(write(1).unwrap_err());
    assert!(error.contains("is already there"), "{error}");
}

#[test]
fn csv_rows_come_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("csv");
    let rows: Vec<(u64, String, Option<i32>)> =
        (0..500).map(|n| (n, format!("text, \"{n}\""), (n % 3 == 0).then_some(n as i32))).collect();
    let writing = env(2);
    writing.from_collection(rows.clone()).rebalance().map(|row| row).write_as_csv(&out);
    writing.execute("write").unwrap();
    let read = env(3).read_csv_file::<(u64, String, Option<i32>)>(&out).execute_and_collect().unwrap();
    assert_eq!(sorted(read), rows);
}

#[test]
fn a_socket_is_read_until_the_server_closes_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for n in 0..5000 {
            stream.write_all(format!("line {n}\r\n").as_bytes()).unwrap();
        }
        stream.write_all(b"last").unwrap();
    });
    let lines = env(1).socket_text_stream(&address).execute_and_collect().unwrap();
    server.join().unwrap();
    let mut expect: Vec<String> = (0..5000).map(|n| format!("line {n}")).collect();
    expect.push("last".to_owned());
    assert!(lines == expect, "{} lines, {} expected", lines.len(), expect.len());
}

#[test]
fn a_socket_that_sends_no_text_fails_the_job() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || listener.accept().unwrap().0.write_all(b"\xff\n").unwrap());
    let error = text_of(env(1).socket_text_stream(&address).execute_and_collect().unwrap_err());
    server.join().unwrap();
    assert!(error.contains("is not UTF-8 text"), "{error}");
}
