// A line that is slow, for measurements: two network devices, NAME0 and NAME1, between which packets take
// DELAY seconds each way, BYTES_PER_SECOND together in each direction. For kernels without netem. Whoever
// measures moves the devices into network namespaces of their own (bench/remote_rates). usage: slow_line NAME
// DELAY_SECONDS BYTES_PER_SECOND     as root; runs until it is ended
//
// The devices hand over what TCP would send as several packets in one piece (up to 64 KiB), as the loopback
// device does, so that a gigabit costs a few thousand system calls a second. What does not fit into a queue
// of 32 MiB is dropped.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMostPacketBytes = 70'000, kMostQueuedBytes = 32 << 20;

int open_device(const std::string& name) {
  const int device = ::open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  ifreq request = {};
  request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
  std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
  if (device < 0 || ::ioctl(device, TUNSETIFF, &request) != 0 ||
      ::ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) != 0) {
    std::perror(name.c_str());
    std::exit(1);
  }
  return device;
}

// One direction.
class Way {
 public:
  Way(int from, int to, double delay, double rate) : from_(from), to_(to), delay_(delay), rate_(rate) {
    std::thread([this] { take(); }).detach();
    std::thread([this] { bring(); }).detach();
  }

 private:
  struct Packet {
    Clock::time_point due;
    std::vector<char> bytes;
  };

  static Clock::duration seconds(double count) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(count));
  }

  void take() {
    std::vector<char> bytes(kMostPacketBytes);
    for (ssize_t size; (size = ::read(from_, bytes.data(), bytes.size())) > 0;) {
      const std::lock_guard lock(mutex_);
      if (queued_ + static_cast<size_t>(size) > kMostQueuedBytes) continue;
      queued_ += static_cast<size_t>(size);
      sent_ = std::max(sent_, Clock::now()) + seconds(static_cast<double>(size) / rate_);
      packets_.push_back({sent_ + seconds(delay_), {bytes.begin(), bytes.begin() + size}});
      wake_.notify_one();
    }
  }

  void bring() {
    for (std::unique_lock lock(mutex_);;) {
      wake_.wait(lock, [&] { return !packets_.empty(); });
      const Packet packet = std::move(packets_.front());
      packets_.pop_front();
      lock.unlock();
      std::this_thread::sleep_until(packet.due);
      [[maybe_unused]] const ssize_t written = ::write(to_, packet.bytes.data(), packet.bytes.size());
      lock.lock();
      queued_ -= packet.bytes.size();
    }
  }

  const int from_, to_;
  const double delay_, rate_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Packet> packets_;
  size_t queued_ = 0;
  Clock::time_point sent_;
};

}  // namespace

int main(int count, char** words) {
  if (count != 4) {
    std::fprintf(stderr, "usage: slow_line NAME DELAY_SECONDS BYTES_PER_SECOND\n");
    return 2;
  }
  const std::string name = words[1];
  const double delay = std::atof(words[2]), rate = std::atof(words[3]);
  const int near = open_device(name + "0"), far = open_device(name + "1");
  Way out(near, far, delay, rate), back(far, near, delay, rate);
  std::puts("ready");
  std::fflush(stdout);
  ::pause();
}
