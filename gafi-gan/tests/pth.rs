//! `.pth` files made here, opcode by opcode: what Candle reads is read equal, and files that claim more than they hold are
//! refused without the memory they claim. `tests/studiogan.rs` reads one that PyTorch wrote.

use std::io::{Cursor, Write};
use std::path::Path;

use candle_core::{DType, Tensor};
use gafi_core::Result;
use gafi_gan::import::state_dict::{self, State};

/// A tensor of a file: its name, storage type and bytes, and its view of them.
struct Stored {
    name: &'static str,
    kind: &'static str,
    bytes: Vec<u8>,
    size: usize,
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

/// Values from `from` on, as they follow each other in memory.
fn stored(name: &'static str, shape: &[i64], strides: &[i64], offset: i64, count: usize) -> Stored {
    let bytes = (0..count).flat_map(|i| (i as f32 * 0.5 - 3.0).to_le_bytes()).collect();
    Stored { name, kind: "FloatStorage", bytes, size: 4, offset, shape: shape.into(), strides: strides.into() }
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(value: i64) -> Vec<u8> {
    match i32::try_from(value) {
        Ok(value) => [b"J", &value.to_le_bytes()[..]].concat(),
        Err(_) => [&[0x8a, 8][..], &value.to_le_bytes()].concat(),
    }
}

fn ints(values: &[i64]) -> Vec<u8> {
    [b"(".to_vec(), values.iter().flat_map(|v| int(*v)).collect(), b"t".to_vec()].concat()
}

/// The value as `torch.save` pickles it: a call of `_rebuild_tensor_v2`, where `numel` is the claimed size of the storage.
fn rebuild(tensor: &Stored, key: &str, numel: i64) -> Vec<u8> {
    let Stored { kind, offset, shape, strides, .. } = tensor;
    let storage =
        [b"(", &text("storage")[..], format!("ctorch\n{kind}\n").as_bytes(), &text(key), &text("cpu")].concat();
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(",
        &storage[..],
        &int(numel),
        b"tQ",
        &int(*offset),
        &ints(shape),
        &ints(strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

/// A pickled state dict of `tensors`.
fn dict(tensors: &[Stored]) -> Vec<u8> {
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (key, tensor) in tensors.iter().enumerate() {
        pickle.extend(text(tensor.name));
        pickle.extend(rebuild(tensor, &key.to_string(), (tensor.bytes.len() / tensor.size) as i64));
    }
    pickle.extend(b"u.");
    pickle
}

fn archive(pickle: &[u8], storages: &[&[u8]], deflated: bool) -> Vec<u8> {
    let method = if deflated { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let mut add = |name: &str, bytes: &[u8]| {
        archive.start_file(format!("model/{name}"), options).unwrap();
        archive.write_all(bytes).unwrap();
    };
    add("data.pkl", pickle);
    add("byteorder", b"little");
    for (key, bytes) in storages.iter().enumerate() {
        add(&format!("data/{key}"), bytes);
    }
    archive.finish().unwrap().into_inner()
}

fn file_of(tensors: &[Stored]) -> Vec<u8> {
    let storages: Vec<&[u8]> = tensors.iter().map(|t| &t.bytes[..]).collect();
    archive(&dict(tensors), &storages, false)
}

/// Reads the state dict that has one of the tensors of these tests.
fn read(path: &Path) -> Result<State> {
    state_dict::read(&[path.into()], None, &["w", "matrix", "every other", "base", "0"])
}

fn error(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("g.pth");
    std::fs::write(&path, bytes).unwrap();
    let error = read(&path).map(|_| ()).unwrap_err().to_string();
    error.split_once("g.pth: ").unwrap().1.to_owned()
}

#[track_caller]
fn refused(bytes: &[u8], parts: &[&str]) {
    let error = error(bytes);
    assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} in {error:?}");
}

fn values(tensor: &Tensor) -> (Vec<usize>, Vec<f64>) {
    let flat = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    (tensor.dims().to_vec(), flat.to_vec1().unwrap())
}

#[test]
fn what_candle_reads_is_read_equal() {
    let whole = |kind: &'static str, bytes: Vec<u8>, size| Stored {
        kind,
        name: kind,
        shape: vec![(bytes.len() / size) as i64],
        strides: vec![1],
        bytes,
        size,
        offset: 0,
    };
    let tensors = [
        stored("matrix", &[3, 4], &[4, 1], 0, 12),
        stored("scalar", &[], &[], 0, 1),
        stored("part", &[2, 2, 2], &[4, 2, 1], 3, 11),
        stored("fortran", &[2, 3, 4], &[1, 2, 6], 0, 24),
        stored("one column", &[4, 1], &[1, 1], 0, 4),
        whole("DoubleStorage", [1.5f64, -2e300].map(f64::to_le_bytes).concat(), 8),
        whole("HalfStorage", [0x3c00u16, 0xc000].map(u16::to_le_bytes).concat(), 2),
        whole("BFloat16Storage", [0x3f80u16, 0xc000].map(u16::to_le_bytes).concat(), 2),
        whole("ByteStorage", vec![0, 7, 255], 1),
        whole("LongStorage", [-5i64, 1 << 40].map(i64::to_le_bytes).concat(), 8),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("g.pth");
    std::fs::write(&path, file_of(&tensors)).unwrap();
    let ours = read(&path).unwrap();
    let candle = candle_core::pickle::read_all(&path).unwrap();
    // Integers are skipped, and floats converted to F32.
    assert_eq!((ours.len(), candle.len()), (tensors.len() - 2, tensors.len()));
    for (name, theirs) in candle.into_iter().filter(|(_, theirs)| theirs.dtype().is_float()) {
        let theirs = theirs.to_dtype(DType::F32).unwrap();
        assert_eq!((ours[&name].dtype(), values(&ours[&name])), (theirs.dtype(), values(&theirs)), "{name}");
    }

    // A view that Candle refuses, under its key, beside other values.
    let every_other = stored("every other", &[2, 2], &[6, 2], 1, 10);
    let wrapped =
        [b"\x80\x02}(", &text("epoch")[..], b"K\x07", &text("state_dict"), &dict(&[every_other])[2..]].concat();
    let wrapped = [&wrapped[..wrapped.len() - 1], b"u."].concat();
    let every_other = stored("every other", &[2, 2], &[6, 2], 1, 10);
    std::fs::write(&path, archive(&wrapped, &[&every_other.bytes], false)).unwrap();
    let ours = read(&path).unwrap();
    assert_eq!(values(&ours["every other"]), (vec![2, 2], [1.0, 3.0, 7.0, 9.0].map(|i| i * 0.5 - 3.0).to_vec()));
}

/// Saves a state dict as `argv[1]`, within a checkpoint, the same tensors as `argv[2]`, in safetensors, and a module as `argv[3]`.
const SAVE: &str = r#"
import sys, torch
from safetensors.torch import save_file
torch.manual_seed(1)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
optimizer = torch.optim.Adam(net.parameters())
net[2](torch.randn(5, 4)).sum().backward()
optimizer.step()
torch.save({"g_ema": net, "step": 3}, sys.argv[3])
state = net.state_dict()
base = torch.arange(24.0).reshape(2, 3, 4)
state["base"], state["part"], state["turned"] = base, base[:, 1], base.permute(2, 0, 1)
state["channels last"] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
state["parameter"] = torch.nn.Parameter(torch.randn(3))
state["scalar"], state["empty"] = torch.tensor(2.5), torch.zeros(0, 3)
for dtype in ["float64", "float16", "bfloat16", "uint8", "int16", "int32", "int64", "bool"]:
    state[dtype] = torch.tensor([0, 1, 200, 3]).to(getattr(torch, dtype))
more = {"epoch": 3, "loss": [0.5, float("nan")], "seed": 2**70, "best": None, "rng": torch.get_rng_state()}
torch.save({**more, "optimizer": optimizer.state_dict(), "state_dict": state}, sys.argv[1])
save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, sys.argv[2])
"#;

/// Runs only where `GAFI_TEST_PYTHON`, or `python3`, has torch.
#[test]
fn what_torch_saves_is_read_equal() {
    let python = std::env::var_os("GAFI_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let run = |program: &str| std::process::Command::new(&python).arg("-c").arg(program).output();
    if !run("import safetensors, torch").is_ok_and(|out| out.status.success()) {
        // Not `eprintln!`, which the test harness hides in a passing test.
        let _ = writeln!(std::io::stderr(), "skipped: no Python with torch and safetensors to write a .pth");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let files = ["g.pth", "g.safetensors", "net.pth"].map(|name| dir.path().join(name));
    let out = std::process::Command::new(&python).arg("-c").arg(SAVE).args(&files).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let [pth, other, whole] = files;
    let [ours, other] = [pth, other].map(|path| read(&path).unwrap());
    assert!(ours.keys().eq(other.keys()), "{:?} and {:?}", ours.keys(), other.keys());
    for (name, tensor) in &ours {
        let other = &other[name];
        assert_eq!((tensor.dtype(), values(tensor)), (other.dtype(), values(other)), "{name}");
    }
    // A pickled module, in a dictionary.
    let whole = state_dict::read(&[whole], Some("g_ema"), &["0.weight"]).unwrap();
    let names = ["0.bias", "0.weight", "1.bias", "1.running_mean", "1.running_var", "1.weight", "2.bias", "2.weight"];
    assert!(whole.keys().eq(names.iter()), "{:?}", whole.keys());
    names.iter().for_each(|name| assert_eq!(values(&whole[*name]), values(&ours[*name]), "{name}"));
}

#[test]
fn parameters_and_subclasses_are_tensors() {
    let tensor = stored("w", &[2], &[1], 0, 2);
    let inner = rebuild(&tensor, "0", 2);
    let parameter = [b"ctorch._utils\n_rebuild_parameter\n", &inner[..], b"\x88N\x87R"].concat();
    let call = inner.strip_prefix(b"ctorch._utils\n_rebuild_tensor_v2\n").unwrap().strip_suffix(b"R").unwrap();
    let subclass =
        [b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\ncmine\nTensor\n", call, b"}tR"]
            .concat();
    for value in [&parameter, &subclass] {
        let pickle = [b"\x80\x02}(", &text("w")[..], value, b"u."].concat();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.pth");
        std::fs::write(&path, archive(&pickle, &[&tensor.bytes], false)).unwrap();
        assert_eq!(read(&path).unwrap()["w"].to_vec1::<f32>().unwrap(), [-3.0, -2.5]);
        assert_eq!(candle_core::pickle::read_all(&path).unwrap().len(), 1);
    }
}

#[test]
fn claims_beyond_the_file_are_refused() {
    let tensor = |shape: &[i64], strides: &[i64], offset| stored("w", shape, strides, offset, 6);
    let view = |shape: &[i64], strides: &[i64], offset| file_of(&[tensor(shape, strides, offset)]);
    for file in [
        view(&[7], &[1], 0),
        view(&[2, 3], &[3, 1], 1),
        view(&[2, 3], &[4, 1], 0),
        view(&[1 << 40], &[0], 0),
        view(&[1 << 40, 1 << 40], &[1, 1], 0),
        view(&[1 << 40, 1 << 40, 0], &[1, 1, 1], 0),
        view(&[2], &[i64::MAX], 0),
        view(&[2], &[1], i64::MAX),
        view(&[2, 3], &[1], 0),
    ] {
        refused(&file, &["model/data.pkl, tensor \"w\": expected a tensor within its storage of 6 elements"]);
    }
    refused(&view(&[-1], &[1], 0), &["tensor \"w\": expected a shape", "found -1"]);
    refused(&view(&[2], &[1], -4), &["tensor \"w\": expected an offset in the storage, 0 or more, found -4"]);

    let one = tensor(&[6], &[1], 0);
    let claim = |numel| [b"\x80\x02}(", &text("w")[..], &rebuild(&one, "0", numel), b"u."].concat();
    for numel in [1 << 40, i64::MAX] {
        refused(
            &archive(&claim(numel), &[&one.bytes], false),
            &["model/data/0: expected", "values of f32", "found 24 bytes"],
        );
    }
    refused(&archive(&claim(6), &[], false), &["model/data/0: expected a readable entry"]);
    refused(&archive(&claim(6), &[&one.bytes], true), &["model/data.pkl: expected an entry without compression"]);
    // Only floats are read.
    let integers = Stored { kind: "QInt8Storage", ..tensor(&[6], &[1], 0) };
    refused(&file_of(&[integers]), &["no tensors of floats"]);

    // The bytes of a storage are damaged: the checksum is compared.
    let mut damaged = file_of(&[tensor(&[6], &[1], 0)]);
    let at = damaged.windows(24).position(|window| window == one.bytes).unwrap();
    damaged[at + 2] ^= 1;
    refused(&damaged, &["model/data/0: expected readable data", "checksum"]);

    // Many names for one storage.
    let big = stored("w", &[20_000], &[1], 0, 20_000);
    let names: Vec<u8> = (0..9).flat_map(|i| [text(&i.to_string()), rebuild(&big, "0", 20_000)].concat()).collect();
    let shared = [b"\x80\x02}(", &names[..], b"u."].concat();
    refused(&archive(&shared, &[&big.bytes], false), &["tensors of at most", "found 720000"]);
}

#[test]
fn files_without_tensors_are_refused() {
    refused(
        &archive(b"\x80\x02K\x07.", &[], false),
        &["model/data.pkl: expected a dictionary of tensors, such as net.state_dict(), found 7"],
    );
    refused(
        &archive(b"\x80\x02cmine\nNet\n)\x81}b.", &[], false),
        &["a dictionary of tensors, such as net.state_dict(), found mine.Net"],
    );
    refused(
        &archive(b"\x80\x02}.", &[], false),
        &["expected a state dict with some of the tensors w, matrix", "found no tensors of floats"],
    );
    let mut two = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for name in ["a/data.pkl", "b/data.pkl"] {
        two.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    }
    refused(&two.finish().unwrap().into_inner(), &["archive", "several entries data.pkl"]);
}

/// Pickles that made the reader recurse or allocate what they claim: read in a process that may use little memory, in which
/// either fault is an abort.
#[cfg(target_os = "linux")]
#[test]
fn nesting_and_lengths_cost_no_more_than_the_file() {
    let deep = [b"\x80\x02N".to_vec(), vec![0x85; 2 << 20], b".".to_vec()].concat();
    let calls = [b"\x80\x02cm\nf\n".to_vec(), b")R".repeat(1 << 20), b".".to_vec()].concat();
    let length = b"\x80\x02X\xf0\xff\xff\xffabc.".to_vec();
    // Each value holds the one before twice: 2^40 values if they were copied.
    let doubling: Vec<u8> = (0..40u8).flat_map(|i| [b'q', i, b'h', i, 0x86]).collect();
    let doubling = [b"\x80\x02N", &doubling[..], b"."].concat();
    // The same with dictionaries, {"a": inner, "b": inner}, and with a name of 8 MiB around 10,000 tensors.
    let pair = |i: u8| [&[b'q', i][..], b"}(", &text("a"), &[b'h', i], &text("b"), &[b'h', i], b"u"].concat();
    let dicts = [b"\x80\x02}".to_vec(), (0..40).flat_map(pair).collect(), b".".to_vec()].concat();
    let tensor = rebuild(&stored("w", &[2], &[1], 0, 2), "0", 2);
    let first = [text("0"), tensor, b"q\x00".to_vec()].concat();
    let rest = (1..10_000).flat_map(|i| [text(&i.to_string()), b"h\x00".to_vec()].concat());
    let inner: Vec<u8> = [b"}(".to_vec(), first, rest.collect(), b"u".to_vec()].concat();
    let long = [b"\x80\x02}(".to_vec(), text(&"n".repeat(8 << 20)), inner, b"u.".to_vec()].concat();
    for (what, pickle, found) in [
        ("deep", deep, "a tuple of 1 values"),
        ("calls", calls, "the result of a call"),
        ("length", length, "the end of the pickle after 4"),
        ("doubling", doubling, "a tuple of 2 values"),
        ("dictionaries", dicts, "no tensors of floats"),
        ("long", long, "no tensors of floats"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.pth");
        std::fs::write(&path, archive(&pickle, &[], false)).unwrap();
        let printed = read_with_little_memory(&path);
        assert!(printed.contains(&format!("found {found}")), "{what}: {printed}");
    }
}

/// Runs [`reads_the_file_it_is_given`] in a process with 1 GiB of address space, and returns what it prints.
fn read_with_little_memory(path: &Path) -> String {
    let run =
        "ulimit -v 1048576 && exec \"$0\" reads_the_file_it_is_given --exact --ignored --nocapture --test-threads 1";
    let test = std::env::current_exe().unwrap();
    let output = std::process::Command::new("sh").args(["-c", run]).arg(test).env("PTH", path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "run by other tests"]
#[allow(clippy::print_stdout, reason = "the other tests read it")]
fn reads_the_file_it_is_given() {
    let path = std::env::var_os("PTH").unwrap();
    println!("{}", read(Path::new(&path)).map(|_| ()).unwrap_err());
}
