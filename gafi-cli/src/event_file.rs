//! Writes TensorBoard event files.
//!
//! A file is a sequence of TFRecords (length, masked CRC-32C of the length, data, masked CRC-32C of the data; little endian:
//! tensorflow/core/lib/io/record_writer.h), each an `Event` message (tensorflow/core/util/event.proto). Only four of its
//! fields are written, so the encoding is spelled out here instead of using a protobuf library.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// An event file, open for writing.
#[derive(Debug)]
pub(crate) struct EventFile(File);

impl EventFile {
    /// Creates the file, or truncates it.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        // Without a temporary name: TensorBoard reads the file as it grows, and tolerates an incomplete end.
        let mut file = Self(OpenOptions::new().write(true).create(true).truncate(true).open(path)?);
        // Field 3, `file_version`.
        let mut event = wall_time(0.0);
        bytes(&mut event, 3, b"brain.Event:2");
        file.record(&event)?;
        Ok(file)
    }

    /// Appends a scalar: name, step, time in seconds since 1970, value.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn scalar(&mut self, tag: &str, step: u64, wall: f64, value: f64) -> io::Result<()> {
        // `Summary.Value`: 1 is `tag`, 2 `simple_value`, a float.
        let mut named = Vec::new();
        bytes(&mut named, 1, tag.as_bytes());
        named.push(2 << 3 | 5);
        named.extend((value as f32).to_le_bytes());
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &named);
        let mut event = wall_time(wall);
        event.push(2 << 3);
        varint(&mut event, step);
        bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(data);
        record.extend(masked_crc(data).to_le_bytes());
        self.0.write_all(&record)
    }
}

/// An `Event` with field 1, `wall_time`, a double.
fn wall_time(seconds: f64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(seconds.to_le_bytes());
    event
}

/// Appends a field that is a string or a message.
fn bytes(into: &mut Vec<u8>, field: u8, data: &[u8]) {
    into.push(field << 3 | 2);
    varint(into, data.len() as u64);
    into.extend(data);
}

fn varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

/// The checksum as TFRecords store it, masked so that checksums of data that contain checksums still work.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit, which is fast enough for short events.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_match_the_standard() {
        // RFC 3720, B.4; and the check value of the catalogue of CRCs.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_record_has_length_checksums_and_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut file = EventFile::create(&path).unwrap();
        file.scalar("loss", 300, 1.5, 0.25).unwrap();
        let all = std::fs::read(&path).unwrap();
        let first = u64::from_le_bytes(all[..8].try_into().unwrap()) as usize;
        assert!(all[12..12 + first].ends_with(b"brain.Event:2"));
        let record = &all[12 + first + 4..];
        let length = u64::from_le_bytes(record[..8].try_into().unwrap()) as usize;
        assert_eq!(record[8..12], masked_crc(&record[..8]).to_le_bytes());
        let data = &record[12..12 + length];
        assert_eq!(record[12 + length..], masked_crc(data).to_le_bytes());
        let mut expected = vec![0x09];
        expected.extend(1.5f64.to_le_bytes());
        expected.extend([0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11, 0x0a, 4]);
        expected.extend(b"loss");
        expected.push(0x15);
        expected.extend(0.25f32.to_le_bytes());
        assert_eq!(data, expected);
    }
}
