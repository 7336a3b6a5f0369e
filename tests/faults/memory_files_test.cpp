#include "faults/memory_files.h"

#include <set>

#include "testing.h"

namespace nibblecast::testing {
namespace {

void write(FileSystem& files, const std::filesystem::path& path, std::string_view text, bool sync) {
  const auto file = files.open(path, Access::kCreate);
  file->write(0, std::as_bytes(std::span(text)));
  if (sync) file->sync();
  file->close();
}

std::string text_of(MemoryFiles& files, const std::filesystem::path& path) {
  return files.status(path) ? read_text(files, path, 1 << 20) : "-";
}

// What a power cut can leave, over many seeds; `prepare` makes the machine's state before it.
template <class Prepare, class Look>
std::set<std::string> outcomes(NameLoss loss, const Prepare& prepare, const Look& look) {
  std::set<std::string> found;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    MemoryFiles files(loss);
    files.create_folders("/d");
    prepare(files);
    files.power_cut(seed);
    found.insert(look(files));
  }
  return found;
}

using Outcomes = std::set<std::string>;

TEST(MemoryFiles, BehavesAsTheSystemsFiles) {
  TemporaryFolder folder;
  MemoryFiles memory;
  for (FileSystem* files : {&system_files(), static_cast<FileSystem*>(&memory)}) {
    const auto top = folder.path() / "top";
    files->create_folders(top / "a" / "b");
    write_text_durably(*files, top / "a" / "f", "hello");
    EXPECT_EQ(files->list(top / "a"), (std::vector<std::string>{"b", "f"}));
    EXPECT_TRUE(files->status(top / "a" / "b")->is_folder);
    EXPECT_EQ(files->status(top / "a" / "f")->size_bytes, 5u);
    EXPECT_FALSE(files->status(top / "a" / "f" / "g"));
    files->copy(top / "a" / "f", top / "g");
    expect_error(
        ErrorKind::kIo, [&] { files->copy(top / "a" / "f", top / "g"); }, "/g", "File exists");
    expect_error(
        ErrorKind::kIo, [&] { files->open(top / "no", Access::kUpdateDirect); }, "/no", "cannot open",
        "No such file");
    expect_error(
        ErrorKind::kIo, [&] { files->open(top / "no" / "f", Access::kCreate); }, "cannot create", "No such");
    expect_error(
        ErrorKind::kBadInput, [&] { files->open(top / "a", Access::kRead); }, "/a", "cannot open");
    expect_error(
        ErrorKind::kIo, [&] { files->list(top / "no"); }, "cannot list", "No such file");
    expect_error(
        ErrorKind::kIo, [&] { files->rename(top / "no", top / "x"); }, "cannot rename");
    expect_error(
        ErrorKind::kIo, [&] { files->create_folders(top / "g"); }, "/g", "File exists");
    files->rename(top / "g", top / "a" / "f");
    const auto file = files->open(top / "a" / "f", Access::kUpdateDirect);
    file->write(7, std::as_bytes(std::span("xy", 2)));
    EXPECT_EQ(read_text(*files, top / "a" / "f", 100), std::string("hello\0\0xy", 9));
    file->set_size(2);
    EXPECT_EQ(file->size(), 2u);
    std::byte byte;
    EXPECT_EQ(file->read_some(2, {&byte, 1}), 0u);
    file->close();
    EXPECT_EQ(files->open(top / "a" / "f", Access::kCreate)->size(), 0u);
    {
      const auto lock = files->try_lock(top / "lock", "me");
      EXPECT_TRUE(lock);
      EXPECT_FALSE(files->try_lock(top / "lock", "you"));
      EXPECT_EQ(read_text(*files, top / "lock", 100), "me");
    }
    EXPECT_TRUE(files->try_lock(top / "lock", "you"));
    files->remove(top / "a");
    files->remove(top / "a");
    EXPECT_EQ(files->list(top), std::vector<std::string>{"lock"});
  }
}

TEST(MemoryFiles, SyncedBytesSurviveAndOthersFallApartIntoSectors) {
  const std::string old(2 * kSectorBytes, 'o'), changed(2 * kSectorBytes, 'n');
  const auto found = outcomes(
      NameLoss::kJournal,
      [&](MemoryFiles& files) {
        write(files, "/d/f", old, true);
        files.sync_folder("/d");
        files.open("/d/f", Access::kUpdateDirect)->write(0, std::as_bytes(std::span(changed)));
      },
      [](MemoryFiles& files) {
        const std::string text = text_of(files, "/d/f");
        EXPECT_EQ(text.size(), 2 * kSectorBytes);
        for (size_t at = 0; at < text.size(); ++at)
          EXPECT_EQ(text[at], text[at / kSectorBytes * kSectorBytes]);
        return std::string{text.front(), text.back()};
      });
  EXPECT_EQ(found, (Outcomes{"oo", "on", "no", "nn"}));
}

TEST(MemoryFiles, SizesThatWereNotSyncedAreAnyThatThereWas) {
  const auto found = outcomes(
      NameLoss::kJournal,
      [](MemoryFiles& files) {
        write(files, "/d/f", "abc", true);
        files.sync_folder("/d");
        write(files, "/d/f", "xy", false);  // emptied, then grown
      },
      [](MemoryFiles& files) { return text_of(files, "/d/f"); });
  EXPECT_EQ(found, (Outcomes{"abc", "", "xy", "xyc", std::string(2, '\0'), "ab"}));
}

TEST(MemoryFiles, ARenameOfUnsyncedBytesMayLeaveAnEmptyFile) {
  const auto found = outcomes(
      NameLoss::kJournal,
      [](MemoryFiles& files) {
        write_text_durably(files, "/d/f", "old");
        write(files, "/d/f.partial", "new", false);
        files.rename("/d/f.partial", "/d/f");
        files.sync_folder("/d");
      },
      [](MemoryFiles& files) { return text_of(files, "/d/f"); });
  EXPECT_TRUE(found.contains(""));
  EXPECT_TRUE(found.contains("new"));
  EXPECT_FALSE(found.contains("old"));
}

TEST(MemoryFiles, DurableTextIsTheOldOrTheNewOne) {
  for (const NameLoss loss : {NameLoss::kJournal, NameLoss::kAnySubset}) {
    const auto found = outcomes(
        loss,
        [](MemoryFiles& files) {
          write_text_durably(files, "/d/f", "old");
          write(files, "/d/f.partial", "new", true);
          files.rename("/d/f.partial", "/d/f");
        },
        [](MemoryFiles& files) { return text_of(files, "/d/f"); });
    EXPECT_EQ(found, (Outcomes{"old", "new"}));
  }
}

TEST(MemoryFiles, AJournalKeepsABeginningAndTheHarsherModelAnySubset) {
  const auto prepare = [](MemoryFiles& files) {
    for (const char* name : {"/d/a", "/d/b", "/d/c"}) write(files, name, "", true);
  };
  const auto look = [](MemoryFiles& files) {
    std::string names;
    for (const std::string& name : files.list("/d")) names += name;
    return names;
  };
  EXPECT_EQ(outcomes(NameLoss::kJournal, prepare, look), (Outcomes{"", "a", "ab", "abc"}));
  EXPECT_EQ(outcomes(NameLoss::kAnySubset, prepare, look),
            (Outcomes{"", "a", "b", "c", "ab", "ac", "bc", "abc"}));
}

TEST(MemoryFiles, ASyncedFolderTakesTheJournalBeforeItAlong) {
  const auto prepare = [](MemoryFiles& files) {
    files.create_folders("/e");
    write(files, "/e/x", "", true);
    write(files, "/d/y", "", true);
    files.sync_folder("/d");
  };
  const auto look = [](MemoryFiles& files) { return text_of(files, "/e/x") + text_of(files, "/d/y"); };
  EXPECT_EQ(outcomes(NameLoss::kJournal, prepare, look), Outcomes{""});
  EXPECT_EQ(outcomes(NameLoss::kAnySubset, prepare, look), (Outcomes{"", "-"}));
}

TEST(MemoryFiles, ARemovalThatWasNotSyncedMayComeBack) {
  const auto found = outcomes(
      NameLoss::kAnySubset,
      [](MemoryFiles& files) {
        files.create_folders("/d/e");
        write_text_durably(files, "/d/e/f", "f");
        files.remove("/d/e");
      },
      [](MemoryFiles& files) {
        return std::string(files.status("/d/e") ? "folder " : "none ") + text_of(files, "/d/e/f");
      });
  EXPECT_EQ(found, (Outcomes{"none -", "folder -", "folder f"}));
}

TEST(MemoryFiles, APowerCutEndsLocksAndIsThatOfItsSeed) {
  std::set<std::string> found;
  for (int repeat = 0; repeat < 2; ++repeat) {
    MemoryFiles files;
    files.create_folders("/d");
    for (const char* name : {"/d/a", "/d/b", "/d/c", "/d/e", "/d/f"}) write(files, name, name, false);
    files.power_cut(7);
    std::string all;
    for (const auto& [path, bytes] : files.contents("/d")) all += path + "=" + bytes + ";";
    found.insert(all);
    EXPECT_TRUE(files.try_lock("/d/lock", "again"));
  }
  EXPECT_EQ(found.size(), 1u);
}

TEST(MemoryFiles, SharedFoldersAreSeenAndDurable) {
  MemoryFiles first;
  first.create_folders("/x/source");
  write(first, "/x/source/f", "text", false);
  first.sync_all();
  MemoryFiles second;
  second.share(first, "/x/source");
  second.power_cut(1);
  EXPECT_EQ(text_of(second, "/x/source/f"), "text");
}

}  // namespace
}  // namespace nibblecast::testing
