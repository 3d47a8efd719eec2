//! Training over processes: the same losses from any number, less memory on each, a dead one ends all.
//!
//! With the feature `mpi` this runs the binary under Open MPI's `mpirun`; where that is missing the tests
//! say so and pass.

#[cfg(feature = "mpi")]
mod ranks;

#[cfg(not(feature = "mpi"))]
#[test]
fn a_binary_without_mpi_refuses_to_run_as_one_of_several() {
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_chatdlm"))
        .args(["train", "--service", "none", "--out"])
        .arg(folder.path().join("out"))
        .env("OMPI_COMM_WORLD_SIZE", "2")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("cargo build --release --features mpi"), "{error}");
    assert!(!folder.path().join("out").exists());
}
