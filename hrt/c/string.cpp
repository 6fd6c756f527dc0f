// The functions of `std::string`, which libstdc++ has only together with exceptions.
#include <string>

template class std::allocator<char>;
template class std::basic_string<char>;
template std::string std::operator+(const char *, const std::string &);
template std::string std::operator+(char, const std::string &);
