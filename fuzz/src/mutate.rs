//! Mutations of inputs. They know nothing of a format, except that text has numbers, words and brackets.

use std::ops::Range;

use gafi_core::StreamRng;
use gafi_core::stream::below;

/// Longest input in bytes.
const LONGEST: usize = 1 << 20;

/// Boundary values of integer types and sizes.
const INTEGERS: [u64; 16] = [
    0,
    1,
    2,
    7,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Values that replace a word or a number in a text.
const WORDS: [&str; 32] = [
    "0",
    "1",
    "-1",
    "2",
    "255",
    "256",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "1e308",
    "1e400",
    "-0.0",
    "0.5",
    "1e-320",
    "nan",
    "inf",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"unset\"",
    "\"\\u001b[2J\"",
    "\"\u{202e}\"",
    "../x",
    "0x10",
    "1_000",
    "{\"a\":1}",
];

const STRUCTURE: &[u8] = b"{}[](),:=\"'\\\n\t #.-+\0";

/// A mutated copy of one of `seeds`, which must not be empty.
pub fn mutate(rng: &mut StreamRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = pick(rng, seeds).clone();
    // One mutation finds most faults; several get past checks that belong together.
    let count = 1 + below(rng, 3) * below(rng, 4);
    for _ in 0..count {
        step(rng, &mut bytes, seeds);
        bytes.truncate(LONGEST);
    }
    bytes
}

fn pick<'a, T>(rng: &mut StreamRng, from: &'a [T]) -> &'a T {
    &from[below(rng, from.len() as u64) as usize]
}

/// A position from 0 to the length.
fn place(rng: &mut StreamRng, bytes: &[u8]) -> usize {
    below(rng, bytes.len() as u64 + 1) as usize
}

/// A range, short more often than not.
fn block(rng: &mut StreamRng, bytes: &[u8]) -> Range<usize> {
    let from = place(rng, bytes);
    let longest = if below(rng, 4) == 0 { bytes.len() } else { 32 };
    from..bytes.len().min(from + below(rng, longest as u64 + 1) as usize)
}

/// The word or number around a random position; empty where there is neither.
fn word(rng: &mut StreamRng, bytes: &[u8]) -> Range<usize> {
    let at = place(rng, bytes);
    let in_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'.');
    let from = bytes[..at].iter().rposition(|byte| !in_word(byte)).map_or(0, |before| before + 1);
    let to = bytes[at..].iter().position(|byte| !in_word(byte)).map_or(bytes.len(), |after| at + after);
    from..to
}

fn step(rng: &mut StreamRng, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let text = std::str::from_utf8(bytes).is_ok() && below(rng, 4) > 0;
    match if text { 9 + below(rng, 8) } else { below(rng, 14) } {
        0 if !bytes.is_empty() => {
            let bit = below(rng, 8 * bytes.len() as u64) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        1 if !bytes.is_empty() => {
            let at = below(rng, bytes.len() as u64) as usize;
            bytes[at] = below(rng, 256) as u8;
        }
        2..=5 => {
            // An integer of 1, 2, 4 or 8 bytes, in either order, or a small change of the one that is there.
            let width = 1usize << below(rng, 4);
            let at = place(rng, bytes);
            let Some(place) = bytes.get_mut(at..at + width) else { return };
            let old = place.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
            let value = match below(rng, 3) {
                0 => old.wrapping_add(below(rng, 33)).wrapping_sub(16),
                _ => *pick(rng, &INTEGERS),
            };
            place.copy_from_slice(&value.to_le_bytes()[..width]);
            if below(rng, 2) == 0 {
                place.reverse();
            }
        }
        6 => bytes.truncate(place(rng, bytes)),
        7 => {
            let most = if below(rng, 8) == 0 { 1 << 16 } else { 64 };
            let more = below(rng, most) as usize;
            let byte = *pick(rng, &[0, 0xff, b' ', b'1']);
            bytes.resize(bytes.len() + more, byte);
        }
        8 => {
            // Two blocks change places.
            let (a, b) = (block(rng, bytes), block(rng, bytes));
            let moved = bytes[a.clone()].to_vec();
            let other = bytes[b.clone()].to_vec();
            if a.end <= b.start {
                bytes.splice(b, moved);
                bytes.splice(a, other);
            }
        }
        9 => drop(bytes.drain(block(rng, bytes))),
        10 | 11 => {
            // A block is repeated, often once, sometimes until nesting or lists are deep.
            let copied = bytes[block(rng, bytes)].to_vec();
            let times = if below(rng, 4) == 0 { (1 << 16) / copied.len().max(1) } else { 1 };
            let at = place(rng, bytes);
            bytes.splice(at..at, copied.repeat(times.min(1 << below(rng, 17))));
        }
        12 => {
            // The beginning of this input and the end of another.
            let other = pick(rng, seeds);
            bytes.truncate(place(rng, bytes));
            bytes.extend_from_slice(&other[place(rng, other)..]);
        }
        13 | 14 => {
            let replacement = pick(rng, &WORDS).as_bytes().to_vec();
            bytes.splice(word(rng, bytes), replacement);
        }
        15 => {
            // A word of another input, or of this one.
            let other = if below(rng, 2) == 0 { pick(rng, seeds).clone() } else { bytes.clone() };
            bytes.splice(word(rng, bytes), other[word(rng, &other)].iter().copied());
        }
        _ => {
            let at = place(rng, bytes);
            let end = (at + below(rng, 2) as usize).min(bytes.len());
            bytes.splice(at..end, [*pick(rng, STRUCTURE)]);
        }
    }
}
