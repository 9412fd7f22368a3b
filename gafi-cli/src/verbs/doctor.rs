//! `doctor`: checks this machine and this build, and says how to get what is missing.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use candle_core::{Device, DeviceLocation};
use clap::Args;
use gafi_core::read_text;
use gafi_data::NamedSet;
use gafi_kernels::{Amx, CpuKernels, NvidiaLibrary};
use serde::Serialize;
use sysinfo::{Disks, System};

use super::folder_check::{self, FolderReport};
use crate::session::Session;
use crate::stdout;

/// Free disk space below which a run cannot be stored.
const LEAST_DISK: u64 = 1 << 30;

/// Where NVIDIA's driver says which it is.
const DRIVER: &str = "/proc/driver/nvidia/version";

/// Largest text of the system that is read, in bytes.
const MOST_TEXT: u64 = 16 << 20;

/// The oldest major version of a driver for CUDA 13.
const LEAST_DRIVER: u32 = 580;

/// Check this machine and build: device, threads, kernels, CUDA, datasets, memory and disk
#[derive(Debug, Args)]
#[command(after_help = "Exit code 1 if something is present but does not work, else 0.")]
pub(crate) struct DoctorArgs {
    /// Also try locks, renames and exclusive creation in this folder, from two processes
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The second process of `--folder`
    #[arg(long, hide = true, value_name = "DIR")]
    second: Option<PathBuf>,
}

/// The result of all checks.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    /// Commit of the source, from the environment variable `GAFI_COMMIT` at build time.
    commit: Option<&'static str>,
    system: String,
    cpu: Cpu,
    threads: Threads,
    kernels: Kernels,
    device: String,
    cuda: Cuda,
    data: Vec<Data>,
    memory: Memory,
    disk: Option<Disk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    folder: Option<FolderReport>,
    /// What is present but does not work.
    broken: Vec<String>,
    /// What could be better.
    advice: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Cpu {
    model: String,
    features: Vec<(&'static str, bool)>,
}

#[derive(Debug, Serialize)]
struct Kernels {
    f32: &'static str,
    bf16: &'static str,
    amx: String,
}

#[derive(Debug, Serialize)]
struct Threads {
    cores: Option<usize>,
    used: usize,
}

#[derive(Debug, Serialize)]
struct Cuda {
    /// Whether this build supports it.
    built: bool,
    /// Whether the system has an NVIDIA GPU (Linux only).
    gpu: bool,
    /// Version of NVIDIA's driver (Linux only).
    driver: Option<String>,
    /// Those that a build with CUDA needs; none where there is neither such a build nor a GPU.
    libraries: Vec<Library>,
    /// cuDNN's description of the GPU in use: with it, cuDNN plans for this GPU on other machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct Library {
    name: &'static str,
    /// Where the loader found it.
    file: Option<PathBuf>,
    /// Why it cannot be loaded.
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Data {
    set: &'static str,
    /// Its folder; `None` if missing or built in.
    folder: Option<PathBuf>,
    /// How to get it, if it is missing.
    missing: Option<String>,
}

#[derive(Debug, Serialize)]
struct Memory {
    total_bytes: u64,
    available_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Disk {
    folder: PathBuf,
    available_bytes: u64,
}

pub(super) fn run(session: &Session, args: &DoctorArgs) -> Result<()> {
    if let Some(scratch) = &args.second {
        return stdout::line(serde_json::to_string(&folder_check::second(scratch))?);
    }
    let mut report = examine(session);
    report.folder =
        args.folder.as_deref().map(|folder| folder_check::check(folder, &session.program()?)).transpose()?;
    report.broken.extend(report.folder.iter().flat_map(FolderReport::broken));
    if session.json {
        stdout::line(serde_json::to_string(&report)?)?;
    } else {
        stdout::line(text(&report))?;
    }
    ensure!(report.broken.is_empty(), "{}", report.broken.join("; "));
    Ok(())
}

fn examine(session: &Session) -> Report {
    let mut broken = Vec::new();
    let mut advice = Vec::new();
    let mut system = System::new();
    system.refresh_memory();
    system.refresh_cpu_all();
    let model = system.cpus().first().map(|cpu| cpu.brand().trim().to_string()).unwrap_or_default();
    let cores = std::thread::available_parallelism().ok().map(usize::from);
    let threads = Threads { cores, used: rayon::current_num_threads() };

    let kernels = CpuKernels::detect();
    if kernels.f32 == "portable" {
        advice.push("no vector kernels for this CPU: training will be slow".to_string());
    }
    if kernels.amx == Amx::Refused {
        advice.push("the CPU has AMX, but the system denies it to this process: bf16 will be slower".into());
    }

    let cuda = cuda(session, &mut broken, &mut advice);
    let data: Vec<_> = NamedSet::ALL.into_iter().map(|set| data(set, &mut broken)).collect();
    let disk = std::env::current_dir().ok().and_then(|folder| disk(&folder));
    if let Some(disk) = disk.as_ref().filter(|disk| disk.available_bytes < LEAST_DISK) {
        broken.push(format!("only {} of disk space left in {}", bytes(disk.available_bytes), disk.folder.display()));
    }
    Report {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("GAFI_COMMIT"),
        system: format!("{} ({})", System::long_os_version().unwrap_or_default(), std::env::consts::ARCH),
        cpu: Cpu { model, features: features() },
        threads,
        kernels: Kernels { f32: kernels.f32, bf16: kernels.bf16, amx: kernels.amx.to_string() },
        device: device_name(&session.device),
        cuda,
        data,
        memory: Memory { total_bytes: system.total_memory(), available_bytes: system.available_memory() },
        disk,
        folder: None,
        broken,
        advice,
    }
}

/// The name of a device, as `--device` takes it.
fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".into(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Instruction sets that the kernels can use.
fn features() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    return vec![
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512vl", std::arch::is_x86_feature_detected!("avx512vl")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
        ("amx-bf16", CpuKernels::detect().amx != Amx::NotInCpu),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

fn cuda(session: &Session, broken: &mut Vec<String>, advice: &mut Vec<String>) -> Cuda {
    let built = cfg!(feature = "cuda");
    let driver = read_text(DRIVER, MOST_TEXT).ok().as_deref().and_then(driver_version);
    let gpu = driver.is_some() || Path::new("/dev/nvidiactl").exists();
    let libraries: Vec<_> = if built || gpu {
        let loaded = gafi_kernels::nvidia_libraries();
        let maps = read_text("/proc/self/maps", MOST_TEXT).unwrap_or_default();
        let each = loaded.into_iter();
        each.map(|NvidiaLibrary { name, error, .. }| Library { name, file: mapped(&maps, name), error }).collect()
    } else {
        Vec::new()
    };
    if built && gpu && session.device.is_cpu() {
        match gafi_nn::device::select("cuda") {
            // It works; `--device` chose the CPU.
            Ok(_) => {}
            Err(error) => broken.push(format!("the GPU cannot be used: {error}")),
        }
    }
    if let Some(driver) = driver.as_deref().filter(|driver| major(driver).is_some_and(|major| major < LEAST_DRIVER)) {
        let old = format!("NVIDIA's driver {driver} is too old for CUDA 13, which needs {LEAST_DRIVER} or newer");
        if built { broken.push(old) } else { advice.push(old) }
    }
    let missing: Vec<_> =
        libraries.iter().filter(|library| library.error.is_some()).map(|library| library.name).collect();
    if !missing.is_empty() {
        let listed = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        // A program with CUDA that has started lacks a library that it loads later.
        let found = if built && gpu { &mut *broken } else { &mut *advice };
        found.push(format!(
            "a build with CUDA cannot load {}; the loader looked in LD_LIBRARY_PATH ({}) and the system's folders. They come with \
             CUDA 13, cuDNN 9 and the driver, or with the Python packages that PyTorch installs",
            missing.join(", "),
            if listed.is_empty() { "not set" } else { &listed },
        ));
    }
    if gpu && !built {
        advice.push(
            "there is a GPU, but this build has no CUDA support; rebuild with: CUDA_COMPUTE_CAP=75 cargo build --release -p gafi-cli --features \
             cuda"
            .into(),
        );
    }
    Cuda { built, gpu, driver, libraries, properties: properties(&session.device, broken, advice) }
}

/// The version in the driver's own text: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun ...`, or in drivers with open
/// modules `NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build ...`.
fn driver_version(text: &str) -> Option<String> {
    let is = |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    text.lines().next()?.split_whitespace().find(is).map(String::from)
}

/// The file of a loaded library in the text of `/proc/self/maps`. Its version may be longer than that of the name.
fn mapped(maps: &str, name: &str) -> Option<PathBuf> {
    let stem = name.find(".so").map_or(name, |at| &name[..at + 3]);
    let mut files = maps.lines().filter_map(|line| Some(Path::new(&line[line.find('/')?..])));
    files.find(|file| file.file_name().is_some_and(|file| file.to_string_lossy().starts_with(stem))).map(PathBuf::from)
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// cuDNN's description of the GPU in use.
#[cfg(feature = "cuda")]
fn properties(device: &Device, broken: &mut Vec<String>, advice: &mut Vec<String>) -> Option<serde_json::Value> {
    if !device.is_cuda() {
        return None;
    }
    if !gafi_kernels::cuda::has_memory_pool(device) {
        advice.push(
            "this GPU has no memory pools: the host waits for it whenever a tensor is freed, so training is slow"
                .into(),
        );
    }
    let json = gafi_kernels::cuda::properties(device).map_err(anyhow::Error::from);
    match json.and_then(|json| Ok(serde_json::from_str(&json)?)) {
        Ok(properties) => Some(properties),
        Err(error) => {
            broken.push(format!("the kernels or cuDNN cannot be used: {error:#}"));
            None
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn properties(_: &Device, _: &mut Vec<String>, _: &mut Vec<String>) -> Option<serde_json::Value> {
    None
}

fn data(set: NamedSet, broken: &mut Vec<String>) -> Data {
    let (folder, missing) = match set.find() {
        Ok(folder) => (folder, None),
        Err(not_found) => {
            let damaged = not_found.tried.iter().filter(|(_, why)| why != "no such folder");
            broken.extend(damaged.map(|(place, why)| format!("{place} does not hold {set}: {why}")));
            let hub = if cfg!(feature = "hub") { "an import downloads it; or " } else { "" };
            (None, Some(format!("{hub}{}", not_found.help)))
        }
    };
    Data { set: set.name(), folder, missing }
}

/// Free space in the file system of `folder`.
fn disk(folder: &Path) -> Option<Disk> {
    let folder = folder.canonicalize().ok()?;
    let disks = Disks::new_with_refreshed_list();
    let holds = disks.iter().filter(|disk| folder.starts_with(disk.mount_point()));
    let disk = holds.max_by_key(|disk| disk.mount_point().components().count())?;
    Some(Disk { available_bytes: disk.available_space(), folder })
}

fn bytes(n: u64) -> String {
    format!("{:.1} GiB", n as f64 / f64::from(1 << 30))
}

/// The report as text.
fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    let mut add = |what: &str, found: String| lines.push(format!("{what:<12} {found}"));
    add("gafi-cli", report.commit.map_or(report.version.into(), |commit| format!("{} ({commit})", report.version)));
    add("system", report.system.clone());
    add("cpu", report.cpu.model.clone());
    let has = |(name, has): &(&str, bool)| format!("{name} {}", if *has { "yes" } else { "no" });
    add("features", report.cpu.features.iter().map(has).collect::<Vec<_>>().join(", "));
    let kernels = &report.kernels;
    add("kernels", format!("f32: {}, bf16: {}; AMX: {}", kernels.f32, kernels.bf16, kernels.amx));
    let cores = report.threads.cores.map_or("an unknown number of".into(), |n| n.to_string());
    add("threads", format!("{} on {cores} cores", report.threads.used));
    add("device", report.device.clone());
    let yes = |is: bool| if is { "yes" } else { "no" };
    let driver = report.cuda.driver.as_ref().map(|driver| format!(", driver {driver}")).unwrap_or_default();
    add("cuda", format!("in this build: {}; NVIDIA GPU: {}{driver}", yes(report.cuda.built), yes(report.cuda.gpu)));
    for Library { name, file, error } in &report.cuda.libraries {
        let found = || file.as_ref().map_or_else(|| "found".into(), |file| file.display().to_string());
        add("", format!("{name}: {}", error.clone().unwrap_or_else(found)));
    }
    let memory = &report.memory;
    add("memory", format!("{} of {} available", bytes(memory.available_bytes), bytes(memory.total_bytes)));
    if let Some(disk) = &report.disk {
        add("disk", format!("{} available in {}", bytes(disk.available_bytes), disk.folder.display()));
    }
    for (i, line) in report.folder.iter().flat_map(FolderReport::lines).enumerate() {
        add(if i == 0 { "folder" } else { "" }, line);
    }
    for data in &report.data {
        let built_in = || "built in".to_string();
        let place = || data.folder.as_ref().map_or_else(built_in, |folder| folder.display().to_string());
        let found = data.missing.as_ref().map_or_else(place, |help| format!("missing; {help}"));
        add("data", format!("{}: {found}", data.set));
    }
    report.advice.iter().for_each(|advice| add("advice", advice.clone()));
    report.broken.iter().for_each(|broken| add("BROKEN", broken.clone()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_version_is_read_from_both_texts() {
        for text in [
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  gcc version 12.2.0\n",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (root@host)\n",
        ] {
            let found = driver_version(text).unwrap();
            assert_eq!((found.as_str(), major(&found)), ("550.54.15", Some(550)));
        }
        assert_eq!(driver_version(""), None);
    }

    #[test]
    fn a_loaded_library_is_located() {
        let maps = "7f1 r--p 00000000 08:01 42 /usr/lib/libcuda.so.580.65.06\n7f2 rw-p 00000000 00:00 0\n";
        assert_eq!(mapped(maps, "libcuda.so.1"), Some("/usr/lib/libcuda.so.580.65.06".into()));
        assert_eq!(mapped(maps, "libcudnn.so.9"), None);
    }
}
